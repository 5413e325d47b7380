//! A random actor has its way with two watched directories, while a model predicts what must be
//! wanted of it, found by events alone.
//!
//! The model knows what each file says when the storm pauses. What a file that is bad then last
//! said when it was good depends on which moments the watch happened to see, so there the model
//! knows only what it may be. `IBVWATCH_STORM_SECONDS` and `IBVWATCH_STORM_SEED` make it longer, or
//! the same again.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::clock::SystemClock;

/// A pause ends once what is wanted is as predicted; only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(30);
const NAMES: [&str; 6] = ["a.json", "b.toml", "c.json", "d.toml", "e.json", "f.json"];
const SESSIONS: u32 = 12;

/// What one file says, as far as can be known.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Its sessions with their label, where it is good.
    good: Option<BTreeMap<SessionId, String>>,
    /// Every session that a file of this name ever named: one that is removed and made again
    /// soon is the same file.
    ever: BTreeSet<SessionId>,
    gone: bool,
}

struct Storm {
    root: TempDir,
    directories: [PathBuf; 2],
    files: BTreeMap<PathBuf, Known>,
    rng: StdRng,
    round: u32,
    /// Whether a mode keeps us from reading.
    modes_matter: bool,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directories = ["one", "two"].map(|name| root.path().join(name));
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        let modes_matter = !rustix::process::geteuid().is_root();
        let rng = StdRng::seed_from_u64(seed);
        Self { root, directories, files: BTreeMap::new(), rng, round: 0, modes_matter }
    }

    fn act(&mut self) {
        let directory = self.directories[self.rng.random_range(0..2)].clone();
        let path = directory.join(NAMES[self.rng.random_range(0..NAMES.len())]);
        match self.rng.random_range(0..14) {
            0..3 => self.write_over(&path),
            3..6 => self.rename_over(&path),
            6 => self.truncate(&path),
            7 => self.spoil(&path),
            8 => self.rename(&path),
            9 => self.link(&path),
            10 => self.forbid(&path),
            11 | 12 => self.delete(&path),
            _ => self.replace_directory(&directory),
        }
    }

    fn content(&mut self, path: &Path) -> (String, BTreeMap<SessionId, String>) {
        self.round += 1;
        let label = format!("v{}", self.round);
        let named = (0..SESSIONS).filter(|_| self.rng.random_bool(0.3)).map(id);
        let named: BTreeMap<SessionId, String> = named.map(|id| (id, label.clone())).collect();
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let entry = |(id, label): (&SessionId, &String)| {
            if is_json {
                format!("{{\"session_id\": \"{id}\", \"labels\": {{\"v\": \"{label}\"}}}}")
            } else {
                format!("{{session_id = \"{id}\", labels = {{v = \"{label}\"}}}}")
            }
        };
        let entries = named.iter().map(entry).collect::<Vec<_>>().join(",\n");
        let text = if is_json { format!("[{entries}]") } else { format!("sessions = [{entries}]") };
        (text, named)
    }

    fn becomes_good(&mut self, path: &Path, named: BTreeMap<SessionId, String>) {
        let known = self.files.entry(path.to_owned()).or_default();
        known.ever.extend(named.keys());
        known.good = Some(named);
        known.gone = false;
    }

    fn becomes_bad(&mut self, path: &Path) {
        let known = self.files.entry(path.to_owned()).or_default();
        known.good = None;
        known.gone = false;
    }

    fn is_gone(&mut self, path: &Path) {
        if let Some(known) = self.files.get_mut(path) {
            known.good = None;
            known.gone = true;
        }
    }

    /// Makes every bad file good, so that the model knows all.
    fn mend(&mut self) {
        let bad = |(_, known): &(_, &Known)| known.good.is_none() && !known.gone;
        let bad: Vec<PathBuf> = self.files.iter().filter(bad).map(|(p, _)| p.clone()).collect();
        for path in bad {
            self.rename_over(&path);
        }
    }

    /// In the file itself, in two halves.
    fn write_over(&mut self, path: &Path) {
        use std::io::Write;
        Self::delete_unless_file(path);
        let (text, named) = self.content(path);
        let mut file = fs::File::create(path).unwrap();
        file.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
        file.write_all(&text.as_bytes()[text.len() / 2..]).unwrap();
        self.becomes_good(path, named);
    }

    fn rename_over(&mut self, path: &Path) {
        let (text, named) = self.content(path);
        let prepared = self.root.path().join("prepared");
        fs::write(&prepared, text).unwrap();
        fs::rename(&prepared, path).unwrap();
        self.becomes_good(path, named);
    }

    fn truncate(&mut self, path: &Path) {
        Self::delete_unless_file(path);
        fs::File::create(path).unwrap();
        self.becomes_bad(path);
    }

    fn spoil(&mut self, path: &Path) {
        Self::delete_unless_file(path);
        fs::write(path, "[{ \"session_id\": 7").unwrap();
        self.becomes_bad(path);
    }

    /// To another name, or to one that is no session file's.
    fn rename(&mut self, path: &Path) {
        let Some(known) = self.files.get(path).filter(|known| !known.gone).cloned() else { return };
        let kind = path.extension().unwrap();
        let others = NAMES.iter().filter(|name| Path::new(name).extension() == Some(kind));
        let others: Vec<_> = others.collect();
        let to = match self.rng.random_range(0..=others.len()) {
            0 => path.with_extension("bak"),
            n => self.directories[self.rng.random_range(0..2)].join(others[n - 1]),
        };
        fs::rename(path, &to).unwrap();
        if to == path {
            return;
        }
        self.is_gone(path);
        if to.extension() == Some(kind) {
            let place = self.files.entry(to).or_default();
            place.ever.extend(known.ever);
            place.good = known.good;
            place.gone = false;
        }
    }

    /// To a good file elsewhere, to nothing, or to itself.
    fn link(&mut self, path: &Path) {
        self.delete(path);
        match self.rng.random_range(0..3) {
            0 => {
                let (text, named) = self.content(path);
                let target = self.root.path().join(format!("target-{}", self.round));
                fs::write(&target, text).unwrap();
                symlink(target, path).unwrap();
                self.becomes_good(path, named);
            }
            1 => {
                symlink("nowhere", path).unwrap();
                self.becomes_bad(path);
            }
            _ => {
                symlink(path, path).unwrap();
                self.becomes_bad(path);
            }
        }
    }

    fn forbid(&mut self, path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
            if self.modes_matter {
                self.becomes_bad(path);
            }
        }
    }

    fn delete(&mut self, path: &Path) {
        if fs::symlink_metadata(path).is_ok() {
            fs::remove_file(path).unwrap();
        }
        self.is_gone(path);
    }

    /// Writing would go through a link, and not into a file that may not be written.
    fn delete_unless_file(path: &Path) {
        if fs::symlink_metadata(path).is_ok() {
            fs::remove_file(path).unwrap();
        }
    }

    /// By an empty one, with all that was in it moved along or gone with the old one.
    fn replace_directory(&mut self, directory: &Path) {
        let old = self.root.path().join("old");
        fs::rename(directory, &old).unwrap();
        if self.rng.random_bool(0.5) {
            fs::rename(&old, directory).unwrap();
            return;
        }
        fs::create_dir(directory).unwrap();
        fs::remove_dir_all(&old).unwrap();
        let inside = self.files.keys().filter(|path| path.parent() == Some(directory));
        let inside: Vec<PathBuf> = inside.cloned().collect();
        for path in inside {
            self.is_gone(&path);
        }
    }

    /// What is wrong with what is wanted, by what the files say.
    fn judge(&self, wanted: &BTreeMap<SessionId, Entry>) -> Result<(), String> {
        // Of several files that name a session, the first by path counts.
        let mut must: BTreeMap<SessionId, Option<&str>> = BTreeMap::new();
        let mut may: BTreeSet<SessionId> = BTreeSet::new();
        for known in self.files.values().filter(|known| !known.gone) {
            match &known.good {
                Some(named) => {
                    for (id, label) in named {
                        let certain = (!may.contains(id)).then_some(label.as_str());
                        must.entry(*id).or_insert(certain);
                    }
                }
                None => may.extend(&known.ever),
            }
        }
        for (id, label) in &must {
            let Some(entry) = wanted.get(id) else { return Err(format!("{id} is not wanted")) };
            let told = entry.labels.iter().next().map(|(_, label)| label);
            if label.is_some() && told != *label {
                return Err(format!("{id} is labelled {told:?} and not {label:?}"));
            }
        }
        match wanted.keys().find(|id| !must.contains_key(id) && !may.contains(id)) {
            Some(id) => Err(format!("{id} is wanted and no file names it")),
            None => Ok(()),
        }
    }
}

async fn weather(seed: u64, until: Instant) -> u32 {
    let mut storm = Storm::new(seed);
    let (sender, mut deltas) = mpsc::channel(1);
    let settings = Settings {
        directories: storm.directories.to_vec(),
        // Far beyond the end: what events don't bring is not found.
        rescan_interval: Duration::from_secs(86_400),
        removal_grace: Duration::from_millis(300),
    };
    let watch =
        super::super::watch(settings, vec![], SystemClock, sender, watch::Sender::default());
    let watching = tokio::spawn(watch);
    let mut wanted: BTreeMap<SessionId, Entry> = BTreeMap::new();
    let mut acts = 0;
    loop {
        for _ in 0..storm.rng.random_range(1..60) {
            storm.act();
            acts += 1;
            if storm.rng.random_bool(0.1) {
                tokio::time::sleep(Duration::from_millis(storm.rng.random_range(0..150))).await;
            }
        }
        if storm.rng.random_bool(0.5) {
            storm.mend();
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(wrong) = storm.judge(&wanted) {
            let Ok(delta) = tokio::time::timeout_at(deadline, deltas.recv()).await else {
                panic!("IBVWATCH_STORM_SEED={seed}, after {acts} acts: {wrong}: {:?}", storm.files);
            };
            let delta = delta.expect("a watch that goes on");
            wanted.extend(delta.wanted.into_iter().map(|entry| (entry.session_id, entry)));
            wanted.retain(|id, _| !delta.unwanted.contains(id));
        }
        if Instant::now() >= until {
            watching.abort();
            return acts;
        }
    }
}

#[test]
fn storms_end_in_what_the_files_say() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seconds = variable("IBVWATCH_STORM_SECONDS").unwrap_or(12);
    let first = variable("IBVWATCH_STORM_SEED");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let seeds: Vec<u64> = match first {
        Some(seed) => vec![seed],
        None => (1..4).chain((0..5).map(|_| rand::random())).collect(),
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let storms: Vec<_> =
        seeds.into_iter().map(|seed| (seed, runtime.spawn(weather(seed, until)))).collect();
    let mut acts = 0;
    for (seed, storm) in storms {
        let ended = runtime.block_on(storm);
        acts += ended.unwrap_or_else(|error| panic!("the storm of seed {seed}: {error}"));
    }
    println!("{acts} acts");
}
