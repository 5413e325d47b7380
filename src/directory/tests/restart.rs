use super::*;

#[tokio::test(start_paused = true)]
async fn a_session_from_before_the_start_that_no_file_names_is_unwanted_after_the_grace() {
    let mut bench = Bench::with_known([1, 2]);
    bench.write("a.json", json([1]));
    assert!(bench.look().unwanted.is_empty());
    assert!(bench.look_after(9).await.is_empty());
    assert_eq!(bench.look_after(1).await.unwanted, ids([2]));
    assert!(bench.look_after(60).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_never_read_since_the_start_holds_what_is_known_from_before() {
    let mut bench = Bench::with_known([1, 2]);
    bench.write("a.json", json([1]));
    bench.write("bad.json", "[");
    bench.look();
    for _ in 0..5 {
        assert!(bench.look_after(60).await.is_empty());
    }
    assert!(bench.warnings("bad.json")[0].contains("no session from before is untracked"));
    // What came since the start is not held.
    bench.write("b.json", json([3]));
    bench.look();
    bench.remove("b.json");
    bench.look();
    assert_eq!(bench.look_after(10).await.unwanted, ids([3]));
    // Once all can be read, the grace begins.
    bench.write("bad.json", "[]");
    assert!(bench.look().is_empty());
    assert!(bench.last.warnings.is_empty());
    assert!(bench.look_after(9).await.is_empty());
    assert_eq!(bench.look_after(1).await.unwanted, ids([2]));
}

#[tokio::test(start_paused = true)]
async fn a_file_never_read_since_the_start_may_name_what_another_no_longer_names() {
    let mut bench = Bench::with_known([1, 2]);
    bench.write("a.json", json([1, 2]));
    bench.write("bad.json", "[");
    bench.look();
    assert!(bench.last.warnings.is_empty(), "nothing depends on it");
    bench.write("a.json", json([2]));
    for _ in 0..5 {
        assert!(bench.look_after(60).await.is_empty());
    }
    assert!(bench.warnings("bad.json")[0].contains("no session from before is untracked"));
    bench.write("bad.json", json([1]));
    bench.look();
    // All was read, so one that breaks now holds nothing that another named.
    bench.write("new.json", "[");
    bench.write("a.json", "[]");
    bench.look();
    assert_eq!(bench.look_after(10).await.unwanted, ids([2]));
}

#[tokio::test(start_paused = true)]
async fn removing_the_file_that_could_not_be_read_lets_go_of_what_it_may_have_named() {
    let mut bench = Bench::with_known([1]);
    bench.write("bad.json", "[");
    bench.look();
    bench.look_after(60).await;
    bench.remove("bad.json");
    assert!(bench.look().is_empty());
    assert_eq!(bench.look_after(10).await.unwanted, ids([1]));
}

#[tokio::test(start_paused = true)]
async fn a_directory_missing_at_the_start_holds_what_is_known_from_before() {
    let mut bench = Bench::with_known([1]);
    fs::remove_dir(&bench.directory).unwrap();
    bench.look();
    for _ in 0..5 {
        assert!(bench.look_after(60).await.is_empty());
    }
    assert_eq!(bench.warnings("").len(), 1);
    fs::create_dir(&bench.directory).unwrap();
    assert!(bench.look_after(60).await.is_empty());
    assert_eq!(bench.look_after(10).await.unwanted, ids([1]));
}

#[tokio::test(start_paused = true)]
async fn toml_still_unsettled_at_the_start_holds_what_is_known_from_before() {
    let root = tempfile::tempdir().unwrap();
    let settings =
        Settings { removal_grace: Duration::ZERO, ..settings(vec![root.path().to_owned()]) };
    let mut eyes = Eyes::new(&settings, ids([1, 2]), None);
    fs::write(root.path().join("a.toml"), toml([1])).unwrap();
    let (step, wake_at) = eyes.look();
    assert!(step.news.is_empty());
    assert!(step.warnings.is_empty(), "this passes by itself");
    tokio::time::advance(wake_at.unwrap() - tokio::time::Instant::now()).await;
    let (step, _) = eyes.look();
    let delta = step.news.deltas().next().expect("at least one");
    assert_eq!((delta.wanted.len(), delta.unwanted), (1, ids([2])));
}

#[tokio::test(start_paused = true)]
async fn new_toml_files_coming_all_the_time_hold_up_no_untracking() {
    let mut bench = Bench::with_known([1000]);
    bench.look();
    let mut unwanted = Vec::new();
    for number in 0..15 {
        bench.write(&format!("{number}.toml"), toml([number]));
        unwanted.extend(bench.look_after(1).await.unwanted);
    }
    assert_eq!(unwanted, ids([1000]));
}

#[tokio::test(start_paused = true)]
async fn without_sessions_from_before_nothing_is_held_and_nothing_said_of_it() {
    let mut bench = Bench::new();
    bench.write("bad.json", "[");
    bench.look();
    bench.look_after(2).await;
    assert_eq!(bench.problems("bad.json").len(), 1);
    assert!(bench.last.warnings.is_empty());
}
