//! What is carried from a database to a stream and back. They need a nats-server, and are in a
//! module that says so.

mod nats {
    use std::io::Cursor;
    use std::time::Duration;

    use async_nats::jetstream;

    use crate::domain::Policy;
    use crate::store::conformance::{
        Home, OnDisk, OnNats, World, context, entry, filled, id, ids, lines, patiently,
    };
    use crate::store::jetstream::archive::{UNFINISHED, export, import};
    use crate::store::jetstream::{JetStreamStore, Settings};
    use crate::store::{Carried, ImportError, Store, StoreError, sqlite};

    /// What a database exports that holds something of everything.
    async fn exported() -> String {
        let w = World::<OnDisk>::new();
        filled(&w).await;
        let World { home, store, .. } = w;
        drop(store);
        let mut out = Vec::new();
        sqlite::export(&home.0.path().join("ibvwatch.db"), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    async fn export_of(settings: &Settings) -> String {
        let mut out = Vec::new();
        export(settings, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    async fn import_into(settings: &Settings, text: &str) -> Result<Carried, ImportError> {
        import(settings, &Policy::default(), Cursor::new(text.to_owned())).await
    }

    async fn refusal(settings: &Settings, text: &str) -> String {
        import_into(settings, text).await.unwrap_err().to_string()
    }

    async fn stream(settings: &Settings) -> jetstream::stream::Stream {
        let client = async_nats::connect(settings.servers[0].as_str()).await.unwrap();
        jetstream::new(client).get_stream(&settings.name).await.unwrap()
    }

    async fn counted_to(stream: &jetstream::stream::Stream, sequence: u64) {
        patiently(async { while last_sequence(stream).await < sequence {} }).await;
    }

    async fn last_sequence(stream: &jetstream::stream::Stream) -> u64 {
        stream.get_info().await.unwrap().state.last_sequence
    }

    /// The same with each event so many times further on, so that there are gaps.
    fn stretched(text: &str, times: u64) -> String {
        let stretch = |line: &str| {
            let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
            for pointer in ["/event/sequence", "/export/last_sequence", "/sink/delivered"] {
                match value.pointer_mut(pointer) {
                    Some(serde_json::Value::String(digits)) => {
                        *digits = format!("{:020}", digits.parse::<u64>().unwrap() * times);
                    }
                    Some(number) => *number = (number.as_u64().unwrap() * times).into(),
                    None => {}
                }
            }
            format!("{value}\n")
        };
        text.lines().map(stretch).collect()
    }

    fn same(text: &str) -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_database_holds_goes_into_a_stream_and_out_again_to_the_byte() {
        let text = exported().await;
        let OnNats { settings } = OnNats::default();
        import_into(&settings, &text).await.unwrap();
        assert_eq!(export_of(&settings).await, text);

        let back = OnDisk::default();
        let path = back.0.path().join("ibvwatch.db");
        sqlite::import(&path, export_of(&settings).await.as_bytes()).unwrap();
        let mut out = Vec::new();
        sqlite::export(&path, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_goes_on_with_what_was_imported_as_the_database_would_have() {
        let text = exported().await;
        let home = OnNats::default();
        import_into(&home.settings, &text).await.unwrap();
        for n in [3, 4] {
            let there = async |kind: &str| {
                let subject = format!("{}.{kind}.{}", home.settings.name, id(n));
                stream(&home.settings).await.get_last_raw_message_by_subject(&subject).await.is_ok()
            };
            assert!(there("schedule").await || there("due").await, "nobody is told to poll {n}");
        }
        let World { clock, policy, .. } = World::<OnDisk>::new();
        clock.advance(Duration::from_secs(31 * 86_400));
        let store = home.open(&context(&clock, &policy)).await;
        let w = World { clock, policy, home, store };
        let told = w.read("new").await;
        assert_eq!(told.len(), 5);
        assert_eq!(lines(&w.read("stdout").await), lines(&told[1..]), "one was delivered");
        assert_eq!(w.store.listed(), [id(1), id(3), id(4)], "they are named by this owner's files");
        // 2 is forgotten, 3 is known; each goes on counting where it stopped.
        w.store.track(vec![entry(2)]).await.unwrap();
        w.store.untrack(vec![id(3)]).await.unwrap();
        let last = told.last().unwrap().sequence;
        w.store.ack_events("new", last).await.unwrap();
        let next = w.read("new").await;
        assert_eq!(ids(&next), [format!("{}/3", id(2)), format!("{}/2", id(3))]);
        assert!(next[0].sequence > last);
        w.clock.advance(Duration::from_secs(600));
        w.lease().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn gaps_stay_gaps() {
        let text = stretched(&exported().await, 700);
        let OnNats { settings } = OnNats::default();
        import_into(&settings, &text).await.unwrap();
        assert_eq!(same(&export_of(&settings).await), same(&text));
        let info = stream(&settings).await.get_info().await.unwrap();
        assert!(info.state.messages < 30, "{info:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_no_whole_export_leaves_nothing() {
        let text = exported().await;
        let OnNats { settings } = OnNats::default();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for kept in 0..lines.len() {
            assert!(refusal(&settings, &lines[..kept].concat()).await.starts_with("line "));
        }
        assert!(refusal(&settings, &text.repeat(2)).await.contains("something follows"));
        let mut moved = lines.clone();
        let session = moved.remove(moved.len() - 3);
        moved.insert(2, session);
        let behind = refusal(&settings, &moved.concat()).await;
        assert!(behind.contains("an event behind a session"), "{behind}");
        import_into(&settings, &text).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_a_stream_that_holds_nothing_and_that_no_node_uses_takes_an_import() {
        let text = exported().await;
        let w = World::<OnNats>::begin().await;
        let settings = w.home.settings.clone();
        for refused in [
            refusal(&settings, &text).await,
            export(&settings, Vec::new()).await.unwrap_err().to_string(),
        ] {
            assert!(refused.contains("is in use by node a; stop every node first"), "{refused}");
        }
        w.track(&[1]).await;
        let context = w.context();
        w.store.close().await;
        drop(w);
        let refused = refusal(&settings, &text).await;
        assert!(refused.contains("holds sessions or events already"), "{refused}");
        stream(&settings).await.purge().await.unwrap();
        let refused = refusal(&settings, &text).await;
        assert!(refused.contains("has counted to "), "{refused}");
        // It was left as it was.
        JetStreamStore::open(&settings, 64, &context).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_import_that_was_interrupted_goes_on_and_nobody_takes_the_part_for_the_whole() {
        let whole = exported().await;
        let text = stretched(&whole, 100_000);
        let OnNats { settings } = OnNats::default();
        let import = tokio::spawn({
            let (settings, text) = (settings.clone(), text.clone());
            async move { import_into(&settings, &text).await }
        });
        let stream = loop {
            let client = async_nats::connect(settings.servers[0].as_str()).await.unwrap();
            let stream = jetstream::new(client).get_stream(&settings.name).await;
            if let Ok(stream) = stream {
                break stream;
            }
        };
        // The first events are in, and what is behind them is not.
        counted_to(&stream, 510_000).await;
        import.abort();
        assert!(import.await.unwrap_err().is_cancelled());
        let World { clock, policy, .. } = World::<OnDisk>::new();
        let context = context(&clock, &policy);
        let opened = JetStreamStore::open(&settings, 64, &context).await;
        let Err(StoreError::Unusable(refused)) = opened else { panic!("{opened:?}") };
        assert!(refused.contains("run ibvwatch import with the same export again"), "{refused}");
        let refused = export(&settings, Vec::new()).await.unwrap_err().to_string();
        assert!(refused.contains("is not finished"), "{refused}");
        let refused = refusal(&settings, &whole).await;
        assert!(refused.contains("an import of another export"), "{refused}");
        stream.consumer_info(UNFINISHED).await.unwrap();

        import_into(&settings, &text).await.unwrap();
        assert_eq!(same(&export_of(&settings).await), same(&text));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_somebody_wrote_in_between_is_not_taken_for_an_event() {
        let text = stretched(&exported().await, 100_000);
        let OnNats { settings } = OnNats::default();
        let import = tokio::spawn({
            let (settings, text) = (settings.clone(), text.clone());
            async move { import_into(&settings, &text).await }
        });
        let client = async_nats::connect(settings.servers[0].as_str()).await.unwrap();
        let context = jetstream::new(client);
        let stream = loop {
            if let Ok(stream) = context.get_stream(&settings.name).await {
                break stream;
            }
        };
        counted_to(&stream, 510_000).await;
        context
            .publish(format!("{}.other", settings.name), "".into())
            .await
            .unwrap()
            .await
            .unwrap();
        let refused = import.await.unwrap().unwrap_err().to_string();
        assert!(refused.contains("somebody else writes to stream"), "{refused}");
    }
}
