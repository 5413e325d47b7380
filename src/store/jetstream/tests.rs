//! What only a store that nodes share can promise. They need a nats-server, and are in a module
//! that says so.

mod nats {
    use std::time::Duration;

    use async_nats::jetstream::AckKind;
    use futures_util::StreamExt;
    use futures_util::future::join_all;

    use crate::domain::{
        ApiDetail, ApiEvent, Cause, EndReason, Entry, Observation, Policy, Problem, ProblemKind,
        Session, Urgency,
    };
    use crate::metrics::Metrics;
    use crate::store::conformance::{
        OnNats, PATIENCE, World, answer, entry, id, ids, kinds, lines, patiently,
    };
    use crate::store::jetstream::batch::Message;
    use crate::store::jetstream::change::Change;
    use crate::store::jetstream::nodes::HEARTBEAT_EVERY;
    use crate::store::jetstream::view::Known;
    use crate::store::jetstream::wire::{Owners, State};
    use crate::store::jetstream::{Settings, Sweep};
    use crate::store::{
        Context, EventFilter, EventQuery, JetStreamStore, Lease, Position, Store, StoreError,
    };

    const SECOND: Duration = Duration::from_secs(1);

    type Shared = World<OnNats>;

    impl Shared {
        /// What is known of session 1.
        fn known(&self) -> Known {
            self.store.inner.known(id(1)).unwrap()
        }

        /// The next tick, by another's hands.
        async fn tick(&self) -> async_nats::jetstream::Message {
            let ticks = self.store.inner.polls.fetch().max_messages(1).expires(PATIENCE);
            ticks.messages().await.unwrap().next().await.unwrap().unwrap()
        }

        /// The store is gone without a word, and a node of that name opens it again.
        async fn reopened(self, node: &str, context: &Context) -> Self {
            let Self { clock, policy, home, store } = self;
            drop(store);
            let settings = Settings { node: node.to_owned(), ..home.settings.clone() };
            let (store, _) = JetStreamStore::open(&settings, 64, context).await.unwrap();
            Self { clock, policy, home, store }
        }
    }

    /// Another node on the same stream, whose files speak in that owner's name.
    async fn another(w: &Shared, node: &str, owner: &str) -> JetStreamStore {
        let settings =
            Settings { node: node.to_owned(), owner: owner.to_owned(), ..w.home.settings.clone() };
        JetStreamStore::open(&settings, 64, &w.context()).await.unwrap().0
    }

    async fn recorded(store: &JetStreamStore) -> Vec<String> {
        let query =
            EventQuery { from: Position::After(0), limit: 10_000, filter: EventFilter::default() };
        ids(&store.find_events(query).await.unwrap().events)
    }

    /// Waits until the node's view is as wanted.
    async fn until(wanted: impl AsyncFn() -> bool) {
        patiently(async {
            while !wanted().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_nodes_that_track_the_same_files_at_once_track_each_session_once() {
        let w = Shared::begin().await;
        let b = another(&w, "b", "a").await;
        let entries: Vec<Entry> = (0..1_000).map(entry).collect();
        let (first, second) = tokio::join!(w.store.track(entries.clone()), b.track(entries));
        first.unwrap();
        second.unwrap();
        assert_eq!(recorded(&b).await.len(), 1_000);
        until(async || w.store.sessions().await.unwrap().len() == 1_000).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_decision_against_a_value_that_another_node_has_moved_on_is_refused_whole() {
        let w = Shared::begin().await;
        let b = another(&w, "b", "a").await;
        w.track(&[1]).await;
        let lease = w.lease().await;
        until(async || b.session(id(1)).await.unwrap().is_some()).await;
        b.untrack(vec![id(1)]).await.unwrap();
        let transition = w.decide(&lease, answer("REQUIRED"));
        assert_eq!(w.store.commit(lease, transition).await, Err(StoreError::Stale(id(1))));
        assert_eq!(recorded(&b).await, [format!("{}/1", id(1)), format!("{}/2", id(1))]);
        assert_eq!(w.ended(1).await, Some(EndReason::Untracked), "the refused node looked again");
    }

    /// On one thread, so that all of them wait before the first is written.
    #[tokio::test]
    async fn polls_that_end_together_share_a_batch() {
        let w = Shared::begin().await;
        let metrics = Metrics::new();
        let context = Context { metrics: metrics.writes.clone(), ..w.context() };
        let w = w.reopened("b", &context).await;
        let batches = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, metrics.registry()).unwrap();
            let mut lines = text.lines();
            let count = "ibvwatch_store_commit_duration_seconds_count ";
            lines.find_map(|line| line.strip_prefix(count)).unwrap().parse::<u64>().unwrap()
        };
        let numbers: Vec<u16> = (0..40).collect();
        w.track(&numbers).await;
        let before = batches();
        let mut leases = Vec::new();
        for _ in &numbers {
            leases.push(w.lease().await);
        }
        let commits = leases.into_iter().map(|lease| {
            let transition = w.decide(&lease, answer("REQUIRED"));
            w.store.commit(lease, transition)
        });
        assert_eq!(join_all(commits).await, vec![Ok(()); numbers.len()]);
        assert_eq!(batches() - before, 1);
    }

    #[tokio::test]
    async fn of_polls_that_end_together_only_what_is_stale_is_refused() {
        let w = Shared::begin().await;
        let numbers: Vec<u16> = (0..10).collect();
        let stale = [2, 3, 9];
        w.track(&numbers).await;
        let mut changes = Vec::new();
        for &n in &numbers {
            let known = w.store.inner.known(id(n)).unwrap();
            let ended = known.session.untrack(w.now()).unwrap();
            let change = Change::of(&known, ended);
            // What has moved on is seen by a look at it, and what can't be is found by halves.
            let revision = match n {
                2 | 9 => change.revision - 1,
                3 => change.revision + 1,
                _ => change.revision,
            };
            changes.push(Change { revision, ..change });
        }
        let answers =
            join_all(changes.into_iter().map(|change| w.store.inner.commit(change))).await;
        for (n, answer) in numbers.into_iter().zip(answers) {
            let (wanted, ended) = if stale.contains(&n) {
                (Err(StoreError::Stale(id(n))), None)
            } else {
                (Ok(()), Some(EndReason::Untracked))
            };
            assert_eq!(answer, wanted);
            assert_eq!(w.ended(n).await, ended);
        }
        assert_eq!(recorded(&w.store).await.len(), 10 + 7);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_node_that_dies_had_in_its_hands_goes_to_another() {
        let a = Shared::begin().await;
        a.track(&[1]).await;
        let lease = a.lease().await;
        let events = patiently(a.store.read_events("sink", 10)).await.unwrap();
        let context = a.context();
        let b = a.reopened("b", &context).await;
        let again = b.lease().await;
        assert_eq!(again.session.id(), lease.session.id());
        assert_eq!(lines(&b.read("sink").await), lines(&events));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sink_is_delivered_to_by_one_node_at_a_time() {
        let w = Shared::begin().await;
        let b = another(&w, "b", "a").await;
        w.track(&[1, 2]).await;
        let of_a = w.read("sink").await;
        assert_eq!(of_a.len(), 2);
        let mut of_b = std::pin::pin!(b.read_events("sink", 10));
        assert!(w.briefly(of_b.as_mut()).await.is_pending(), "both have it");
        w.track(&[3]).await;
        w.store.ack_events("sink", of_a[1].sequence).await.unwrap();
        let of_b = patiently(of_b).await.unwrap();
        assert_eq!(ids(&of_b), [format!("{}/1", id(3))]);
        assert!(w.briefly(w.store.read_events("sink", 10)).await.is_pending(), "both have it");
        b.close().await;
        assert_eq!(lines(&w.read("sink").await), lines(&of_b), "what was not acknowledged");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_tick_that_was_lost_comes_again() {
        let w = Shared::begin().await;
        w.track(&[1]).await;
        w.poll(answer("REQUIRED")).await;
        let context = async_nats::jetstream::new(
            async_nats::connect(w.home.settings.servers[0].as_str()).await.unwrap(),
        );
        let stream = context.get_stream(&w.home.settings.name).await.unwrap();
        for kind in ["schedule", "due"] {
            let subject = format!("{}.{kind}.{}", w.home.settings.name, id(1));
            stream.purge().filter(subject).await.unwrap();
        }
        w.clock.advance(Duration::from_secs(600));
        assert_eq!(w.lease().await.session.id(), id(1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_that_is_abreast_of_a_tick_asks_nobody() {
        let w = Shared::begin().await;
        w.policy.send_replace(Policy { interval: SECOND, jitter: 0.0, ..Policy::default() }.into());
        w.track(&[1]).await;
        w.poll(answer("REQUIRED")).await;
        let tick = w.tick().await;
        assert!(w.store.inner.is_abreast_of(id(1), &tick));
    }

    /// Another node, and the first by name, so that it looks for lost ticks, every so often.
    async fn sweeping(w: &Shared, every: Duration) -> JetStreamStore {
        let sweep = Sweep { every, ..w.home.settings.sweep };
        let settings = Settings { node: "0".to_owned(), sweep, ..w.home.settings.clone() };
        JetStreamStore::open(&settings, 64, &w.context()).await.unwrap().0
    }

    fn state(Known { session, named_by, .. }: &Known) -> State {
        State { session: Session::clone(session), named_by: Owners::clone(named_by) }
    }

    /// Forgets what a node has heard of session 1 since it stood there, once it has heard it all.
    async fn set_back(node: &JetStreamStore, to: &Known, heard: &Known) {
        until(async || node.inner.view().is_past(id(1), heard.revision)).await;
        let (mut view, policy) = (node.inner.view(), node.inner.policy());
        view.forget(id(1));
        assert!(view.take(id(1), to.revision, Some(state(to)), &policy));
    }

    /// Waits until the node knows where session 1 stands, while it would take a poll of it.
    async fn looks_and_polls_nothing(node: &JetStreamStore, at: &Known) {
        tokio::select! {
            lease = node.next_due() => panic!("{lease:?}"),
            () = until(async || node.inner.view().is_past(id(1), at.revision)) => {}
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_that_lags_behind_a_tick_looks_again_before_it_polls() {
        let w = Shared::begin().await;
        w.policy.send_replace(Policy { interval: SECOND, jitter: 0.0, ..Policy::default() }.into());
        // So seldom that no tick comes but the timer's.
        let lagging = sweeping(&w, 3_600 * SECOND).await;
        w.track(&[1]).await;
        let tracked = w.known();
        w.poll(answer("REQUIRED")).await;
        set_back(&lagging, &tracked, &w.known()).await;
        w.clock.advance(SECOND);
        let lease = patiently(lagging.next_due()).await.unwrap();
        assert_eq!(lease.revision, w.known().revision);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_node_that_lags_and_takes_a_tick_for_lost_polls_nothing() {
        let w = Shared::begin().await;
        let lagging = sweeping(&w, w.home.settings.sweep.every).await;
        w.track(&[1]).await;
        let tracked = w.known();
        w.poll(answer("REQUIRED")).await;
        set_back(&lagging, &tracked, &w.known()).await;
        looks_and_polls_nothing(&lagging, &w.known()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_is_given_another_nodes_tick_looks_again_before_it_polls() {
        let w = Shared::begin().await;
        let lagging = sweeping(&w, 3_600 * SECOND).await;
        w.track(&[1]).await;
        let tick = w.tick().await;
        let tracked = w.known();
        let polled = Lease {
            session: Session::clone(&tracked.session),
            urgency: Urgency::Quiet,
            due_at: w.now(),
            revision: tracked.revision,
        };
        let decided = w.decide(&polled, answer("REQUIRED"));
        w.store.inner.commit(Change::of(&tracked, decided)).await.unwrap();
        set_back(&lagging, &tracked, &w.known()).await;
        tick.ack_with(AckKind::Nak(None)).await.unwrap();
        looks_and_polls_nothing(&lagging, &w.known()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_end_that_is_heard_of_late_forgets_nothing_that_was_begun_since() {
        let w = Shared::begin().await;
        w.track(&[1]).await;
        let begun = w.known().revision;
        w.store.inner.view().is_over(id(1), begun - 1);
        assert_eq!(w.known().revision, begun);
        w.store.inner.view().is_over(id(1), begun + 1);
        assert_eq!(w.session(1).await, None);
        assert_eq!(w.store.inner.view().place(id(1)), begun + 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_refused_where_nothing_came_first_is_made_once_it_can_be() {
        let w = Shared::begin().await;
        w.track(&[1]).await;
        let state = state(&w.known());
        let link = &w.store.inner.link;
        let last = async || link.stream.get_info().await.unwrap().state.last_sequence;
        // A node that has heard of what the leader doesn't show yet.
        let place = last().await + 1_000;
        w.store.inner.view().take(id(1), place, Some(state.clone()), &w.policy.borrow());
        let decided = w.decide(&w.lease().await, answer("REQUIRED"));
        let mut made = std::pin::pin!(w.store.inner.commit(Change::of(&w.known(), decided)));
        assert!(w.briefly(made.as_mut()).await.is_pending(), "refused as stale");
        let body = serde_json::to_vec(&state).unwrap();
        let fill = async || {
            let last = last().await;
            let gap = || Message::new(link.subjects.gap(), Vec::new());
            let mut messages = vec![gap().behind(last)];
            messages.extend((last + 2..place).map(|_| gap()));
            messages.push(Message::new(link.subjects.state(id(1)), body.clone()));
            link.publish(messages).await.is_ok()
        };
        until(fill).await;
        patiently(made).await.unwrap();
        assert_eq!(recorded(&w.store).await, [format!("{}/1", id(1)), format!("{}/2", id(1))]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn that_the_api_is_away_is_told_once_by_whoever_finds_it_first() {
        let w = Shared::begin().await;
        let b = another(&w, "b", "a").await;
        let error = Problem {
            kind: ProblemKind::Unreachable,
            status: None,
            code: None,
            request_id: None,
            message: "no route".to_owned(),
        };
        let (time, cause) = (w.now(), Cause::Unreachable);
        let away =
            || ApiEvent { time, cause, detail: ApiDetail::Unavailable { error: error.clone() } };
        let (first, second) = tokio::join!(w.store.announce(away()), b.announce(away()));
        first.unwrap();
        second.unwrap();
        until(async || b.unavailable().is_some() && w.store.unavailable().is_some()).await;
        let back = ApiDetail::Available { unavailable_since: time };
        b.announce(ApiEvent { time, cause, detail: back }).await.unwrap();
        until(async || w.store.unavailable().is_none()).await;
        assert_eq!(recorded(&b).await, ["api/1", "api/2"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_is_tracked_while_one_owner_names_it() {
        let w = Shared::begin().await;
        let b = another(&w, "b", "b").await;
        w.track(&[1]).await;
        until(async || b.session(id(1)).await.unwrap().is_some()).await;
        assert!(b.listed().is_empty(), "it is not b's to give up");
        let interval = Some(Duration::from_secs(60));
        b.track(vec![Entry { interval, ..entry(1) }]).await.unwrap();
        assert_eq!(b.listed(), [id(1)]);
        let kept = b.session(id(1)).await.unwrap().unwrap();
        assert_eq!(kept.entry().interval, None, "the first owner by name counts");
        until(async || w.store.untrack(vec![id(1)]).await.is_ok() && w.store.listed().is_empty())
            .await;
        assert_eq!(w.ended(1).await, None);
        until(async || b.session(id(1)).await.unwrap().is_some_and(|s| s.ended().is_none())).await;
        b.untrack(vec![id(1)]).await.unwrap();
        until(async || w.ended(1).await == Some(EndReason::Untracked)).await;
        assert_eq!(recorded(&b).await.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nodes_know_of_each_other_and_when_one_has_gone() {
        let w = Shared::begin().await;
        let mut nodes = w.store.nodes();
        assert_eq!(*nodes.borrow(), 1);
        let b = another(&w, "b", "b").await;
        patiently(nodes.wait_for(|nodes| *nodes == 2)).await.unwrap();
        assert_eq!(*b.nodes().borrow(), 2, "it heard of the other before it began");
        b.close().await;
        drop(b);
        patiently(nodes.wait_for(|nodes| *nodes == 1)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn last_words_that_come_late_are_no_sign_of_life() {
        let w = Shared::begin().await;
        let client = async_nats::connect(w.home.settings.servers[0].as_str()).await.unwrap();
        let subject = format!("{}.node.b", w.home.settings.name);
        let say = async || {
            client.publish(subject.clone(), "{}".into()).await.unwrap();
            client.flush().await.unwrap();
        };
        say().await;
        let late = async {
            tokio::time::sleep(HEARTBEAT_EVERY).await;
            say().await;
        };
        tokio::join!(another(&w, "b", "b"), late);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_name_is_given_to_one_node_at_a_time() {
        let w = Shared::begin().await;
        let again = JetStreamStore::open(&w.home.settings, 64, &w.context()).await;
        let refusal = again.map(|_| ()).unwrap_err().to_string();
        assert!(refusal.starts_with("another node named a is running"), "{refusal}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_restart_all_is_as_it_was() {
        let w = Shared::begin().await;
        w.track(&[1, 2]).await;
        w.poll(answer("REQUIRED")).await;
        w.poll(Observation::Completed).await;
        let sessions = w.store.sessions().await.unwrap();
        let context = w.context();
        w.store.close().await;
        let w = w.reopened("a", &context).await;
        let again = w.store.sessions().await.unwrap();
        assert_eq!(kinds(&w.read("sink").await).len(), 5);
        let ids = |sessions: &[crate::domain::Session]| -> Vec<_> {
            sessions
                .iter()
                .map(|s| (s.id(), s.sequence(), s.ended(), s.schedule().poll_at))
                .collect()
        };
        assert_eq!(ids(&again), ids(&sessions));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_to_be_polled_more_often_since_the_restart_is() {
        let w = Shared::begin().await;
        w.track(&[1]).await;
        w.poll(answer("REQUIRED")).await;
        w.store.close().await;
        let interval = Duration::from_secs(60);
        w.policy.send_replace(Policy { interval, jitter: 0.0, ..Policy::default() }.into());
        let context = w.context();
        let w = w.reopened("a", &context).await;
        let soon = w.now().plus(interval);
        assert!(w.session(1).await.unwrap().schedule().poll_at > soon);
        assert!(w.briefly(w.store.keep_time()).await.is_pending());
        assert!(w.session(1).await.unwrap().schedule().poll_at <= soon);
    }
}
