//! Who may import whom, as docs/ARCHITECTURE.md draws it, and what the core may not name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module, and which of our modules it may name. `domain` names none; adapters name `domain`
/// and never each other; `app` alone names every part of the daemon.
const ALLOWED: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain"]),
    ("failpoint", &[]),
    ("metrics", &["domain"]),
    ("directory", &["clock", "domain"]),
    ("yoti", &["clock", "domain"]),
    ("store", &["clock", "domain", "failpoint", "metrics"]),
    ("sinks", &["clock", "domain", "failpoint", "store"]),
    ("sim", &["clock", "domain"]),
    ("http", &["clock", "domain", "metrics", "status", "store", "view"]),
    ("config", &["clock", "directory", "domain", "http", "store", "yoti"]),
    ("limiter", &["clock", "config"]),
    ("poller", &["clock", "domain", "failpoint", "limiter", "metrics", "store", "yoti"]),
    ("refresh", &[]),
    ("schema", &["domain"]),
    ("notify", &["status"]),
    ("fuzzing", &["config", "directory", "domain", "yoti"]),
    (
        "simulation",
        &[
            "clock",
            "config",
            "directory",
            "domain",
            "fuzzing",
            "limiter",
            "metrics",
            "poller",
            "sinks",
            "store",
            "yoti",
        ],
    ),
    ("status", &["clock", "directory", "domain", "poller", "sinks", "store"]),
    (
        "app",
        &[
            "clock",
            "config",
            "directory",
            "domain",
            "failpoint",
            "http",
            "limiter",
            "metrics",
            "notify",
            "poller",
            "refresh",
            "sinks",
            "status",
            "store",
            "yoti",
        ],
    ),
    ("view", &["domain"]),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "directory",
            "domain",
            "notify",
            "refresh",
            "schema",
            "sim",
            "store",
            "view",
            "yoti",
        ],
    ),
];

/// IO, clocks, randomness of its own, and the runtime.
const BANNED_IN_DOMAIN: &[&str] = &[
    "tokio",
    "reqwest",
    "rusqlite",
    "notify",
    "tracing",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "::now()",
    "rand::rng(",
    "rand::random",
    "thread_rng",
    "getrandom",
    "from_os_rng",
    "new_v4",
    "println!",
    "dbg!",
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory below src") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The source without comments and without what only tests see.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source in UTF-8");
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn modules() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).expect("a path below src");
        let first = inside.components().next().expect("a file name").as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let only_tests = inside.components().any(|part| {
            part.as_os_str().to_string_lossy().trim_end_matches(".rs").ends_with("tests")
        });
        if module != "main" && module != "lib" && !only_tests {
            modules.entry(module).or_default().push((path.clone(), code(&path)));
        }
    }
    modules
}

fn named_modules(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            named.extend(group.split(',').map(|item| first_word(item.trim())));
        } else {
            named.insert(first_word(rest));
        }
    }
    named
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_import_only_what_the_plan_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, files) in modules() {
        let Some(may) = allowed.get(module.as_str()) else {
            wrong.push(format!("{module} stands nowhere in the plan"));
            continue;
        };
        for (path, code) in files {
            for named in named_modules(&code) {
                if named != module && !may.contains(&named.as_str()) {
                    wrong.push(format!("{} names {named}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_plan_exists() {
    let modules = modules();
    for (module, _) in ALLOWED {
        assert!(modules.contains_key(*module), "{module} is in the plan and not in src");
    }
}

#[test]
fn the_core_names_no_io_no_clock_no_runtime_and_no_randomness_of_its_own() {
    let modules = modules();
    for (path, code) in &modules["domain"] {
        for banned in BANNED_IN_DOMAIN {
            assert!(!code.contains(banned), "{} names {banned}", path.display());
        }
    }
}

/// docs/SECURITY.md says of each threat which test shows that it is stopped.
#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/SECURITY.md")).expect("a document");
    let code = [sources(&root.join("src")), sources(&root.join("tests"))].concat();
    let code: Vec<(PathBuf, String)> = code
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(path).expect("a source in UTF-8")))
        .collect();
    let rows = document.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    let mut named = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [_, _, tests] = cells[..] else { continue };
        for name in tests.split('`').skip(1).step_by(2) {
            let last = name.rsplit("::").next().expect("a last part");
            let function = format!("fn {last}(");
            let is_there = code.iter().any(|(path, text)| {
                text.contains(&function)
                    || path.file_stem().is_some_and(|stem| stem == last)
                    || path.parent().and_then(Path::file_name).is_some_and(|name| name == last)
            });
            named += usize::from(name != "zeroize");
            assert!(is_there || name == "zeroize", "{name} is no test, in: {row}");
        }
    }
    assert!(named > 30, "only {named} tests are named");
}
