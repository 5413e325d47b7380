use std::path::PathBuf;

use super::{export, import};
use crate::domain::Session;
use crate::store::conformance::{OnDisk, World, entry, filled, id, lines};
use crate::store::sqlite::SqliteStore;
use crate::store::{Carried, Context, ImportError, Store, StoreError};

/// A database that nobody holds.
struct Closed {
    home: OnDisk,
    context: Context,
}

impl Closed {
    fn new(world: World<OnDisk>) -> Self {
        let context = world.context();
        let World { home, store, .. } = world;
        drop(store);
        Self { home, context }
    }

    /// With something of everything that a store may hold.
    async fn full() -> Self {
        let w = World::<OnDisk>::new();
        filled(&w).await;
        Self::new(w)
    }

    fn empty() -> Self {
        Self::new(World::new())
    }

    fn path(&self) -> PathBuf {
        self.home.0.path().join("ibvwatch.db")
    }

    fn open(&self, context: &Context) -> SqliteStore {
        SqliteStore::open(&self.path(), context).unwrap()
    }

    fn exported(&self) -> (Carried, String) {
        let mut out = Vec::new();
        let carried = export(&self.path(), &mut out).unwrap();
        (carried, String::from_utf8(out).unwrap())
    }

    /// What an import says, which takes nothing over.
    fn refusal(&self, text: &str) -> String {
        let error = import(&self.path(), text.as_bytes()).unwrap_err();
        assert_eq!(self.exported().0, Carried::default(), "{error}");
        error.to_string()
    }
}

async fn all(store: &SqliteStore) -> (Vec<Session>, Vec<String>, Vec<String>) {
    let (told, rest) = tokio::join!(store.read_events("new", 99), store.read_events("stdout", 99));
    (store.sessions().await.unwrap(), lines(&told.unwrap()), lines(&rest.unwrap()))
}

#[tokio::test]
async fn what_was_exported_goes_on_in_another_database_as_it_would_have_in_its_own() {
    let (before, after) = (Closed::full().await, Closed::empty());
    let (carried, text) = before.exported();
    assert_eq!(import(&after.path(), text.as_bytes()).unwrap(), carried);
    assert_eq!(after.exported(), (carried, text));

    let context = before.context.clone();
    let (before, after) = (before.open(&context), after.open(&context));
    let there = all(&after).await;
    assert_eq!(there, all(&before).await);
    // Of the five events since the purge, the sink has delivered one.
    assert_eq!((there.1.len(), there.2.len()), (5, 4));
    for store in [&before, &after] {
        // 2 is forgotten, 1 is known; each goes on counting where it stopped.
        store.track(vec![entry(2)]).await.unwrap();
        store.untrack(vec![id(1)]).await.unwrap();
    }
    let (before, after) = (all(&before).await.1, all(&after).await.1);
    assert_eq!(after, before);
    assert!(after.iter().any(|line| line.contains(&format!("{}/3", id(2)))), "{after:?}");
}

#[tokio::test]
async fn an_export_that_was_cut_off_anywhere_is_refused_whole() {
    let (_, text) = Closed::full().await.exported();
    let into = Closed::empty();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for kept in 0..lines.len() {
        into.refusal(&lines[..kept].concat());
        let cut = lines[..=kept].concat();
        into.refusal(&cut[..cut.len() - 1]);
        let without: String = [&lines[..kept], &lines[kept + 1..]].concat().concat();
        into.refusal(&without);
    }
    assert!(into.refusal(&lines[..3].concat()).starts_with("line 3: the export was cut off"));
    let twice = text.repeat(2);
    assert!(into.refusal(&twice).contains("something follows this line"));
    import(&into.path(), text.as_bytes()).unwrap();
}

#[tokio::test]
async fn what_is_no_export_is_refused_with_its_line() {
    let (_, text) = Closed::full().await.exported();
    let into = Closed::empty();
    let refused = |from: &str, to: &str| {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text);
        into.refusal(&other)
    };
    assert!(into.refusal("{}\n").starts_with("line 1: "));
    assert!(refused("\"version\":1", "\"version\":2").contains("the export has form 2"));
    assert!(refused("{\"event\":", "{\"evening\":").contains("unknown variant `evening`"));
    let sequence = format!("{:020}", 5);
    assert!(refused(&sequence, &format!("{:020}", 4)).contains("out of order"));
    assert!(refused(&sequence, &format!("{:020}", 99)).contains("out of order"));
    assert!(refused("\"id\":\"", "\"id\":\"x").contains("not of its subject"));
    assert!(refused("session_hash\":\"", "session_hash\":\"!").contains("session_hash"));
}

#[tokio::test]
async fn only_what_holds_nothing_takes_an_import_and_only_what_is_not_held_is_carried() {
    let full = Closed::full().await;
    let (_, text) = full.exported();
    let refused = || match import(&full.path(), text.as_bytes()).unwrap_err() {
        ImportError::Store(StoreError::Unusable(text)) => text,
        error @ (ImportError::Store(_) | ImportError::Input(_) | ImportError::Line { .. }) => {
            panic!("{error}")
        }
    };
    assert!(refused().contains("holds sessions or events already"));
    let store = full.open(&full.context);
    assert!(refused().contains("in use by another ibvwatch"));
    let held = export(&full.path(), Vec::new()).unwrap_err().to_string();
    assert!(held.contains("in use by another ibvwatch"), "{held}");
    drop(store);
    assert_eq!(full.exported().1, text);
}
