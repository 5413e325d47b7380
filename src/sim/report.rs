//! The body of `GET /sessions/{id}`: a long report full of what a client must neither keep nor
//! be misled by. Only the last field but none of the many nested `state`s is the session's.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer;
use super::session::{Live, SessionState};
use crate::domain::{SessionId, Timestamp};

/// What every report holds and no output, log or store of a client may.
pub const SECRETS: [&str; 3] =
    ["simulated-client-session-token", "SIMULATED APPLICANT", "simulated-document-number"];

pub(super) fn body(live: &Live, now: Timestamp) -> Bytes {
    let listed = || live.slots.iter().filter(|slot| slot.listed);
    let named = |wanted: &str| -> Vec<Value> {
        listed()
            .filter(|slot| &*slot.key.kind == wanted)
            .map(|slot| document(&slot.key.id, slot.requirement.state.as_str()))
            .collect()
    };
    let checks = listed()
        .map(|slot| {
            json!({
                "type": "IBV_VISUAL_REVIEW_CHECK",
                "id": slot.key.id,
                "state": "DONE",
                "resources_used": [slot.key.id],
                "report": {
                    "recommendation": { "value": "APPROVE" },
                    "breakdown": [{ "sub_check": "document_in_date", "result": "PASS",
                                    "details": [{ "name": "state", "value": "EXPIRED" }] }]
                },
                "created": now, "last_updated": now
            })
        })
        .collect();
    answer::json(&Report {
        client_session_token_ttl: live.ttl(now),
        client_session_token: SECRETS[0],
        session_id: live.id,
        resources: json!({
            "id_documents": named("ID_DOCUMENT"),
            "supplementary_documents": named("SUPPLEMENTARY_DOCUMENT"),
            "liveness_capture": named("LIVENESS"),
            "face_capture": named("FACE_CAPTURE"),
            "state": "COMPLETED"
        }),
        checks,
        note: "\"state\":\"EXPIRED\"",
        state: live.state,
    })
}

fn document(id: &str, state: &str) -> Value {
    json!({
        "id": id,
        "state": state,
        "source": { "type": "IBV", "state": "COMPLETED" },
        "tasks": [{ "type": "ID_DOCUMENT_TEXT_DATA_EXTRACTION", "state": "DONE",
                    "recommendation": { "value": "PROGRESS" } }],
        "document_fields": { "full_name": SECRETS[1], "document_number": SECRETS[2],
                             "address": { "state": "EXPIRED" } },
        "pages": [{ "capture_method": "CAMERA", "frames": [{ "media": { "type": "IMAGE" } }] }]
    })
}

#[derive(Serialize)]
struct Report {
    client_session_token_ttl: Option<i64>,
    client_session_token: &'static str,
    session_id: SessionId,
    resources: Value,
    checks: Vec<Value>,
    note: &'static str,
    state: SessionState,
}
