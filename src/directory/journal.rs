//! Says each thing once: when it begins, when it changes, and when it is over.

use std::collections::BTreeSet;
use std::path::Path;

use tracing::{info, warn};

use super::problem::Problem;
use super::wanted::Step;
use super::watch::Report;
use crate::domain::{Timestamp, Visible};

/// Of one scan; files may be bad by the thousand.
const MOST_LINES: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Journal {
    told: BTreeSet<Problem>,
    watching: Option<String>,
}

impl Journal {
    /// What an earlier watch has told of is no news.
    pub(super) fn after(report: &Report) -> Self {
        let told = report.problems.iter().chain(&report.warnings).cloned().collect();
        Self { told, watching: None }
    }

    /// Logs what changed with this scan, and brings the report up to date.
    pub(super) fn note(&mut self, step: &Step, now: Timestamp, report: &mut Report) {
        let news = self.news(step);
        for problem in news.begun.iter().take(MOST_LINES) {
            warn!("session files: {problem}");
        }
        if let more @ 1.. = news.begun.len().saturating_sub(MOST_LINES) {
            warn!("{more} more problems with session files; `ibvwatch check` lists them all");
        }
        for path in news.over.iter().take(MOST_LINES) {
            info!("{}: nothing is wrong with it any more", Visible(path.display()));
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The lines that are logged.
    fn logged(act: impl FnOnce()) -> Vec<String> {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);

        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn step(problems: &[&str]) -> Step {
        let problem = |message: &&str| Problem {
            path: PathBuf::from("a.json"),
            line: Some(3),
            message: (*message).to_owned(),
        };
        Step { problems: problems.iter().map(problem).collect(), ..Step::default() }
    }

    #[test]
    fn a_problem_is_logged_when_it_begins_changes_and_ends_and_at_no_other_scan() {
        let mut journal = Journal::default();
        let mut report = Report::default();
        let now = Timestamp::from_millis(0);
        let mut note = |step: Step| logged(|| journal.note(&step, now, &mut report));
        assert_eq!(note(step(&[])), [""; 0]);
        assert_eq!(note(step(&["is odd"])), ["WARN session files: a.json:3: is odd"]);
        assert_eq!(note(step(&["is odd"])), [""; 0]);
        assert_eq!(note(step(&["is odder"])), ["WARN session files: a.json:3: is odder"]);
        assert_eq!(note(step(&[])), ["INFO a.json: nothing is wrong with it any more"]);
        assert_eq!(note(step(&[])), [""; 0]);
        assert_eq!(report.problems_total, 2);
    }

    #[test]
    fn a_thousand_problems_at_once_are_a_hundred_lines_and_one_that_says_so() {
        let messages: Vec<String> = (0..1_000).map(|n| format!("is odd in way {n:04}")).collect();
        let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
        let (mut journal, mut report) = (Journal::default(), Report::default());
        let now = Timestamp::from_millis(0);
        let lines = logged(|| journal.note(&step(&messages), now, &mut report));
        assert_eq!(lines.len(), 101);
        assert!(lines[100].contains("900 more"), "{}", lines[100]);
        assert_eq!(report.problems_total, 1_000);
    }

    #[test]
    fn the_name_of_a_file_forges_no_line_of_the_log() {
        let problem = Problem {
            path: PathBuf::from("x\n2026-11-23T10:15:30Z ERROR the key is revoked\u{1b}[2J.json"),
            line: None,
            message: "is\rodd".to_owned(),
        };
        let bad = Step { problems: [problem].into(), ..Step::default() };
        let (mut journal, mut report) = (Journal::default(), Report::default());
        let now = Timestamp::from_millis(0);
        let lines = logged(|| {
            journal.note(&bad, now, &mut report);
            journal.note(&Step::default(), now, &mut report);
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("x\\u{a}2026")), "{lines:?}");
        assert!(!lines.concat().chars().any(char::is_control), "{lines:?}");
    }

    #[test]
    fn warnings_are_logged_alike_and_counted_apart() {
        let mut journal = Journal::default();
        let mut report = Report::default();
        let now = Timestamp::from_millis(0);
        let warned = Step { warnings: step(&["is double"]).problems, ..Step::default() };
        let mut lines = Vec::new();
        for _ in 0..2 {
            lines.extend(logged(|| journal.note(&warned, now, &mut report)));
        }
        assert_eq!(lines, ["WARN session files: a.json:3: is double"]);
        assert_eq!((report.problems_total, report.last_good_scan), (0, Some(now)));
    }

    #[test]
    fn an_exhausted_watch_limit_is_told_once_and_so_is_its_end() {
        let mut journal = Journal::default();
        let exhausted = || notify::Error::new(notify::ErrorKind::MaxFilesWatch);
        let lines = logged(|| {
            for outcome in [Ok(()), Err(exhausted()), Err(exhausted()), Ok(()), Ok(())] {
                journal.note_watching(outcome);
            }
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("found by rescans alone"), "{lines:?}");
        assert!(lines[1].contains("watched again"), "{lines:?}");
    }
}
