//! Says each thing once: when it begins, when it changes, and when it is over.

use std::collections::BTreeSet;
use std::path::Path;

use tracing::{info, warn};

use super::problem::Problem;
use super::wanted::Step;
use super::watch::Report;
use crate::domain::Timestamp;

#[derive(Debug, Default)]
pub(super) struct Journal {
    told: BTreeSet<Problem>,
    watching: Option<String>,
}

impl Journal {
    /// Logs what changed with this scan, and brings the report up to date.
    pub(super) fn note(&mut self, step: &Step, now: Timestamp, report: &mut Report) {
        let news = self.news(step);
        for problem in &news.begun {
            warn!("{problem}");
        }
        for path in &news.over {
            info!("{}: nothing is wrong with it any more", path.display());
        }
        let problems = news.begun.iter().filter(|problem| step.problems.contains(problem));
        *report = Report {
            files: step.files,
            sessions: step.sessions,
            problems: step.problems.iter().cloned().collect(),
            warnings: step.warnings.iter().cloned().collect(),
            problems_total: report.problems_total + problems.count() as u64,
            last_scan: Some(now),
            last_good_scan: step.problems.is_empty().then_some(now).or(report.last_good_scan),
        };
        self.told = step.problems.union(&step.warnings).cloned().collect();
    }

    fn news<'a>(&'a self, step: &'a Step) -> News<'a> {
        let current = || step.problems.iter().chain(&step.warnings);
        let paths: BTreeSet<&Path> = current().map(|problem| problem.path.as_path()).collect();
        News {
            begun: current().filter(|problem| !self.told.contains(problem)).collect(),
            over: self
                .told
                .iter()
                .map(|problem| problem.path.as_path())
                .filter(|path| !paths.contains(path))
                .collect(),
        }
    }

    pub(super) fn note_watching(&mut self, outcome: Result<(), notify::Error>) {
        let trouble = outcome.err().map(|error| error.to_string());
        match &trouble {
            Some(trouble) if self.watching.as_ref() != Some(trouble) => warn!(
                "session directories can't all be watched: {trouble}; changes are found by \
                 rescans alone (raise fs.inotify.max_user_watches and max_user_instances)"
            ),
            None if self.watching.is_some() => info!("session directories are watched again"),
            Some(_) | None => {}
        }
        self.watching = trouble;
    }
}

struct News<'a> {
    begun: Vec<&'a Problem>,
    /// Paths that nothing is wrong with any more.
    over: BTreeSet<&'a Path>,
}
