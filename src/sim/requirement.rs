//! A required resource, and how the API writes it.

use serde::Serialize;
use uuid::Uuid;

use crate::domain::ResourceState;

/// Something that an applicant is asked for.
#[derive(Debug, Clone)]
pub struct Requirement {
    /// Given when the session is created, unless stated.
    pub(super) id: Option<String>,
    pub(super) state: ResourceState,
    kind: Kind,
    /// The state of all assessments of this resource.
    assessments: String,
    attempts: u32,
}

#[derive(Debug, Clone)]
enum Kind {
    IdDocument { document: &'static str },
    SupplementaryDocument { document: &'static str },
    Liveness { liveness_type: &'static str },
    FaceCapture,
    ApplicantProfile,
    Other(String),
}

impl Requirement {
    #[must_use]
    pub fn passport() -> Self {
        Self::new(Kind::IdDocument { document: "PASSPORT" })
    }

    #[must_use]
    pub fn national_id() -> Self {
        Self::new(Kind::IdDocument { document: "NATIONAL_ID" })
    }

    #[must_use]
    pub fn council_tax_bill() -> Self {
        Self::new(Kind::SupplementaryDocument { document: "COUNCIL_TAX_BILL" })
    }

    #[must_use]
    pub fn liveness() -> Self {
        Self::new(Kind::Liveness { liveness_type: "STATIC" })
    }

    #[must_use]
    pub fn face_capture() -> Self {
        Self::new(Kind::FaceCapture)
    }

    #[must_use]
    pub fn applicant_profile() -> Self {
        Self::new(Kind::ApplicantProfile)
    }

    /// A resource of the type that the API calls `name`, known to us or not.
    #[must_use]
    pub fn of_type(name: &str) -> Self {
        match name {
            "ID_DOCUMENT" => Self::passport(),
            "SUPPLEMENTARY_DOCUMENT" => Self::council_tax_bill(),
            "LIVENESS" => Self::liveness(),
            "FACE_CAPTURE" => Self::face_capture(),
            "APPLICANT_PROFILE" => Self::applicant_profile(),
            other => Self::new(Kind::Other(other.to_owned())),
        }
    }

    /// What the documented in-branch example asks for.
    #[must_use]
    pub fn three_documents() -> Vec<Self> {
        vec![Self::passport(), Self::national_id(), Self::council_tax_bill()]
    }

    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// As if an applicant had been there before the session was first asked for.
    #[must_use]
    pub fn in_state(mut self, state: &str) -> Self {
        self.enter(state.into());
        self
    }

    fn new(kind: Kind) -> Self {
        Self {
            id: None,
            state: ResourceState::Required,
            kind,
            assessments: "REQUIRED".to_owned(),
            attempts: 2,
        }
    }

    pub(super) fn type_name(&self) -> &str {
        match &self.kind {
            Kind::IdDocument { .. } => "ID_DOCUMENT",
            Kind::SupplementaryDocument { .. } => "SUPPLEMENTARY_DOCUMENT",
            Kind::Liveness { .. } => "LIVENESS",
            Kind::FaceCapture => "FACE_CAPTURE",
            Kind::ApplicantProfile => "APPLICANT_PROFILE",
            Kind::Other(name) => name,
        }
    }

    pub(super) fn is_biometric(&self) -> bool {
        match self.kind {
            Kind::Liveness { .. } | Kind::FaceCapture => true,
            Kind::IdDocument { .. }
            | Kind::SupplementaryDocument { .. }
            | Kind::ApplicantProfile
            | Kind::Other(_) => false,
        }
    }

    /// Changes the state and what goes with it: a resource that is complete has been assessed,
    /// and one that has to be supplied again has used up an attempt.
    pub(super) fn enter(&mut self, state: ResourceState) {
        if self.state == ResourceState::InProgress && state.is_required() {
            self.attempts = self.attempts.saturating_sub(1);
        }
        let assessed = if state == ResourceState::Complete { "DONE" } else { "REQUIRED" };
        assessed.clone_into(&mut self.assessments);
        self.state = state;
    }

    /// The sources conflict on whether a finished assessment is `DONE` or `COMPLETE`.
    pub(super) fn assess(&mut self, state: &str) {
        state.clone_into(&mut self.assessments);
    }

    pub(super) fn id_or(&mut self, make: impl FnOnce() -> Uuid) -> &str {
        self.id.get_or_insert_with(|| make().to_string())
    }

    pub(super) fn wire(&self) -> Wire<'_> {
        let mut wire = Wire {
            kind: self.type_name(),
            id: self.id.as_deref().unwrap_or_default(),
            liveness_type: None,
            state: self.state.as_str(),
            allowed_sources: [Source { kind: "IBV" }],
            requested_tasks: None,
            ibv_client_assessments: None,
            supported_countries: None,
            allowed_capture_methods: None,
            attempts_remaining: None,
            document_types: None,
            country_codes: None,
            objective: None,
        };
        match self.kind {
            Kind::IdDocument { document } => {
                wire.requested_tasks = Some([]);
                wire.ibv_client_assessments = Some(assessments(&self.assessments));
                wire.supported_countries = Some([Country {
                    code: "GBR",
                    supported_documents: [Document { kind: document }],
                }]);
                wire.allowed_capture_methods = Some("CAMERA");
                wire.attempts_remaining =
                    Some(Attempts { reclassification: 2, generic: self.attempts });
            }
            Kind::SupplementaryDocument { document } => {
                wire.requested_tasks = Some([]);
                wire.ibv_client_assessments = Some(assessments(&self.assessments));
                wire.document_types = Some([document]);
                wire.country_codes = Some(["GBR"]);
                wire.objective = Some(Objective { kind: "UK_DBS" });
            }
            Kind::Liveness { liveness_type } => wire.liveness_type = Some(liveness_type),
            Kind::FaceCapture | Kind::ApplicantProfile | Kind::Other(_) => {}
        }
        wire
    }
}

fn assessments(state: &str) -> [Assessment<'_>; 3] {
    [
        Assessment { kind: "IBV_VISUAL_REVIEW_CHECK", state, scheme: None },
        Assessment { kind: "DOCUMENT_SCHEME_VALIDITY_CHECK", state, scheme: Some("UK_DBS") },
        Assessment { kind: "PROFILE_DOCUMENT_MATCH", state, scheme: None },
    ]
}

/// One entry of `capture.required_resources`, fields in the order of the documented examples.
#[derive(Serialize)]
pub(super) struct Wire<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    liveness_type: Option<&'a str>,
    state: &'a str,
    allowed_sources: [Source; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_tasks: Option<[(); 0]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ibv_client_assessments: Option<[Assessment<'a>; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    supported_countries: Option<[Country; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_capture_methods: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts_remaining: Option<Attempts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document_types: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country_codes: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objective: Option<Objective>,
}

#[derive(Serialize)]
struct Source {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Assessment<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'static str>,
}

#[derive(Serialize)]
struct Country {
    code: &'static str,
    supported_documents: [Document; 1],
}

#[derive(Serialize)]
struct Document {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Attempts {
    reclassification: u32,
    generic: u32,
}

#[derive(Serialize)]
struct Objective {
    #[serde(rename = "type")]
    kind: &'static str,
}
