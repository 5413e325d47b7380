use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_session_is_tracked_while_some_file_names_it() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1, 2]));
    bench.write("b.json", json([3]));
    bench.look();
    bench.tracks([1, 2, 3]);
    bench.write("a.json", json([2, 4]));
    bench.look();
    bench.tracks([1, 2, 3, 4]);
    bench.look_after(9).await;
    bench.tracks([1, 2, 3, 4]);
    let delta = bench.look_after(1).await;
    assert_eq!(delta, Delta { unwanted: ids([1]), ..Delta::default() });
    bench.tracks([2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_where_nothing_changed() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1, 2]));
    assert_eq!(bench.look().wanted.len(), 2);
    bench.write("a.json", json([2, 1]));
    assert!(bench.look().is_empty());
    assert!(bench.look_after(60).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_changed_entry_is_told_again() {
    let mut bench = Bench::new();
    bench.write("a.json", labelled(1, "old"));
    bench.look();
    bench.write("a.json", labelled(1, "new"));
    let delta = bench.look();
    assert_eq!(delta.wanted.len(), 1);
    assert_eq!(delta.wanted[0].labels.iter().next(), Some(("case", "new")));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_moves_to_another_file_within_the_grace_stays() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    bench.remove("a.json");
    assert!(bench.look().is_empty());
    bench.look_after(9).await;
    bench.write("b.json", json([1]));
    assert!(bench.look_after(1).await.is_empty());
    assert!(bench.look_after(60).await.is_empty());
    bench.tracks([1]);
}

#[tokio::test(start_paused = true)]
async fn only_json_and_toml_files_directly_in_the_directory_are_read() {
    let mut bench = Bench::new();
    for name in [
        ".x.json",
        ".x.json.swp",
        "x.json~",
        "#x.json#",
        ".#x.json",
        "x.json.tmp",
        "x.json.bak",
        "4913",
        "x.JSON",
        "json",
        ".json",
        ".toml",
        "x.yaml",
        "..data",
    ] {
        bench.write(name, json([1]));
    }
    let below = bench.path("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("x.json"), json([1])).unwrap();
    bench.look_after(2).await;
    bench.tracks([]);
    assert_eq!(bench.last.files, 0);
    assert!(bench.last.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_utf_8_is_as_good_as_any() {
    let mut bench = Bench::new();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe.json");
    fs::write(bench.directory.join(name), json([1])).unwrap();
    bench.look();
    bench.tracks([1]);
}

#[tokio::test(start_paused = true)]
async fn a_file_renamed_over_another_takes_its_place() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1, 2]));
    bench.look();
    bench.write(".a.json.new", json([2, 3]));
    fs::rename(bench.path(".a.json.new"), bench.path("a.json")).unwrap();
    bench.look();
    bench.tracks([1, 2, 3]);
    bench.look_after(10).await;
    bench.tracks([2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_truncated_and_then_written_never_loses_a_session() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1, 2]));
    bench.look();
    bench.write("a.json", "");
    assert!(bench.look().is_empty());
    bench.look_after(1).await;
    assert!(bench.problems("a.json").is_empty(), "it may still be written");
    bench.write("a.json", json([1, 2, 3]));
    assert_eq!(bench.look_after(1).await, Delta { wanted: entries([3]), ..Delta::default() });
    bench.look_after(60).await;
    bench.tracks([1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_file_left_empty_keeps_its_last_content_and_is_a_problem() {
    let mut bench = Bench::new();
    for name in ["a.json", "b.toml"] {
        bench.write(name, "");
    }
    bench.write("a.json", json([1]));
    bench.write("b.toml", toml([2]));
    bench.look();
    bench.look_after(2).await;
    bench.tracks([1, 2]);
    bench.write("a.json", "");
    bench.write("b.toml", "\n# nothing\n");
    bench.look();
    bench.look_after(2).await;
    assert!(bench.problems("a.json")[0].contains("is empty"));
    assert!(bench.problems("b.toml")[0].contains("names no sessions"));
    for _ in 0..10 {
        bench.look_after(60).await;
    }
    bench.tracks([1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_says_so_holds_no_sessions() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.write("b.toml", toml([2]));
    bench.look();
    bench.look_after(2).await;
    bench.write("a.json", "[]");
    bench.write("b.toml", "sessions = []");
    bench.look();
    bench.look_after(2).await;
    assert!(bench.last.problems.is_empty());
    bench.look_after(10).await;
    bench.tracks([]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_entry_keeps_the_whole_file_as_it_was() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1, 2]));
    bench.look();
    bench.write("a.json", json([2, 3]).replace('[', "[\"nonsense\",\n"));
    bench.look();
    for _ in 0..3 {
        assert!(bench.look_after(60).await.is_empty());
    }
    assert!(bench.problems("a.json")[0].contains("not a session id"));
    bench.tracks([1, 2]);
    bench.write("a.json", json([2, 3]));
    bench.look();
    bench.look_after(10).await;
    assert!(bench.last.problems.is_empty());
    bench.tracks([2, 3]);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_new_file_with_a_bad_entry_is_taken_up() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]).replace('[', "[\"nonsense\",\n"));
    bench.look();
    bench.look_after(60).await;
    bench.tracks([]);
    assert_eq!(bench.problems("a.json").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_holds_up_neither_the_tracking_nor_the_untracking_of_others() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.write("bad.json", "{");
    bench.look();
    bench.look_after(2).await;
    bench.remove("a.json");
    bench.write("b.json", json([2]));
    bench.look();
    bench.look_after(10).await;
    bench.tracks([2]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_can_not_be_read_keeps_its_last_content() {
    let mut bench = Bench::new();
    for (number, name) in ["directory.json", "dangling.json", "loop.json"].into_iter().enumerate() {
        bench.write(name, json([u32::try_from(number).unwrap()]));
    }
    bench.look();
    for name in ["directory.json", "dangling.json", "loop.json"] {
        bench.remove(name);
    }
    fs::create_dir(bench.path("directory.json")).unwrap();
    symlink("nowhere", bench.path("dangling.json")).unwrap();
    symlink("loop.json", bench.path("loop.json")).unwrap();
    for _ in 0..3 {
        assert!(bench.look_after(60).await.is_empty());
    }
    bench.tracks([0, 1, 2]);
    assert!(bench.problems("directory.json")[0].contains("is a directory"));
    assert!(bench.problems("dangling.json")[0].contains("links to a file that does not exist"));
    assert!(bench.problems("loop.json")[0].contains("can't be read"));
}

#[tokio::test(start_paused = true)]
async fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let mut bench = Bench::new();
    let pipe = bench.path("a.json");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    bench.look();
    assert!(bench.problems("a.json")[0].contains("not a regular file"));
}

#[tokio::test(start_paused = true)]
async fn a_file_too_large_is_refused_unread() {
    let mut bench = Bench::new();
    let file = fs::File::create(bench.path("a.json")).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    bench.look();
    bench.look_after(2).await;
    assert!(bench.problems("a.json")[0].contains("16777217 bytes"), "{:?}", bench.last.problems);
}

#[tokio::test(start_paused = true)]
async fn a_file_deleted_and_made_again_within_the_grace_loses_nothing() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    bench.remove("a.json");
    bench.look();
    bench.look_after(9).await;
    bench.write("a.json", json([1]));
    assert!(bench.look().is_empty());
    assert!(bench.look_after(60).await.is_empty());
    bench.tracks([1]);
}

#[tokio::test(start_paused = true)]
async fn a_file_deleted_and_made_again_after_the_grace_is_tracked_afresh() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    bench.remove("a.json");
    bench.look();
    assert_eq!(bench.look_after(10).await.unwanted, ids([1]));
    bench.write("a.json", json([1]));
    assert_eq!(bench.look().wanted, entries([1]));
}

#[tokio::test(start_paused = true)]
async fn a_file_made_again_with_an_error_within_the_grace_keeps_its_last_content() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    bench.remove("a.json");
    bench.look();
    bench.write("a.json", "[");
    for _ in 0..3 {
        assert!(bench.look_after(9).await.is_empty());
    }
    bench.tracks([1]);
    assert_eq!(bench.problems("a.json").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_that_is_removed_is_gone() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    bench.write("a.json", "[");
    bench.look();
    bench.look_after(60).await;
    bench.remove("a.json");
    bench.look();
    assert!(bench.last.problems.is_empty());
    assert_eq!(bench.look_after(10).await.unwanted, ids([1]));
}

#[tokio::test(start_paused = true)]
async fn a_mounted_config_map_is_followed_through_its_swaps() {
    let mut bench = Bench::new();
    let publish = |bench: &Bench, version: &str, text: String| {
        fs::create_dir(bench.path(version)).unwrap();
        fs::write(bench.path(version).join("a.json"), text).unwrap();
        symlink(version, bench.path("..data_tmp")).unwrap();
        fs::rename(bench.path("..data_tmp"), bench.path("..data")).unwrap();
    };
    publish(&bench, "..v1", json([1, 2]));
    symlink("..data/a.json", bench.path("a.json")).unwrap();
    bench.look();
    bench.tracks([1, 2]);
    publish(&bench, "..v2", json([2, 3]));
    fs::remove_dir_all(bench.path("..v1")).unwrap();
    bench.look();
    bench.look_after(10).await;
    bench.tracks([2, 3]);
    assert!(bench.last.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_vanishes_keeps_its_last_set() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    let elsewhere = bench.root.path().join("elsewhere");
    fs::rename(&bench.directory, &elsewhere).unwrap();
    for _ in 0..10 {
        assert!(bench.look_after(60).await.is_empty());
    }
    bench.tracks([1]);
    assert!(bench.problems("")[0].contains("can't be listed"));
    fs::rename(&elsewhere, &bench.directory).unwrap();
    assert!(bench.look_after(60).await.is_empty());
    assert!(bench.last.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_removed_keeps_its_last_set_until_it_is_back() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    fs::remove_dir_all(&bench.directory).unwrap();
    bench.look_after(60).await;
    bench.tracks([1]);
    fs::create_dir(&bench.directory).unwrap();
    bench.look_after(60).await;
    bench.tracks([1]);
    bench.look_after(10).await;
    bench.tracks([]);
}

/// A link to another file system stands for the mount that only root could make.
#[tokio::test(start_paused = true)]
async fn a_directory_whose_file_system_is_unmounted_keeps_its_last_set() {
    let Ok(mounted) = tempfile::tempdir_in("/dev/shm") else { return };
    let mut bench = Bench::new();
    let below = bench.root.path().join("below");
    fs::rename(&bench.directory, &below).unwrap();
    symlink(mounted.path(), &bench.directory).unwrap();
    if mounted.path().metadata().unwrap().dev() == below.metadata().unwrap().dev() {
        return;
    }
    bench.write("a.json", json([1]));
    bench.look();
    fs::remove_file(&bench.directory).unwrap();
    symlink(&below, &bench.directory).unwrap();
    for _ in 0..3 {
        assert!(bench.look_after(60).await.is_empty());
    }
    assert!(bench.problems("")[0].contains("mount that again"), "{:?}", bench.last.problems);
    bench.write("b.json", json([2]));
    bench.look();
    bench.look_after(10).await;
    bench.tracks([2]);
}

#[tokio::test(start_paused = true)]
async fn a_directory_replaced_by_another_is_read_in_its_place() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1, 2]));
    bench.look();
    fs::rename(&bench.directory, bench.root.path().join("old")).unwrap();
    fs::create_dir(&bench.directory).unwrap();
    bench.write("b.json", json([2, 3]));
    bench.look();
    bench.look_after(10).await;
    bench.tracks([2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_directory_created_later_is_read_then() {
    let mut bench = Bench::new();
    fs::remove_dir(&bench.directory).unwrap();
    bench.look();
    assert!(bench.problems("")[0].contains("create or mend it"));
    fs::create_dir(&bench.directory).unwrap();
    bench.write("a.json", json([1]));
    bench.look_after(60).await;
    bench.tracks([1]);
    assert!(bench.last.problems.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_in_the_place_of_the_directory_keeps_the_last_set() {
    let mut bench = Bench::new();
    bench.write("a.json", json([1]));
    bench.look();
    fs::remove_dir_all(&bench.directory).unwrap();
    fs::write(&bench.directory, "").unwrap();
    bench.look_after(60).await;
    bench.look_after(60).await;
    bench.tracks([1]);
}

#[tokio::test(start_paused = true)]
async fn the_same_id_in_two_files_is_one_session_with_the_entry_of_the_first_by_path() {
    let mut bench = Bench::new();
    bench.write("b.json", labelled(1, "b"));
    bench.look();
    assert!(bench.last.warnings.is_empty());
    bench.write("a.json", format!("[{},\n{}]", labelled(2, "a"), labelled(1, "a")));
    bench.write("c.json", json([1, 2]));
    let delta = bench.look();
    assert_eq!(delta.wanted.len(), 2);
    assert!(delta.wanted.iter().all(|entry| entry.labels.iter().eq([("case", "a")])));
    assert_eq!(bench.last.sessions, 2);
    assert_eq!(bench.warnings("b.json").len(), 1);
    assert!(bench.warnings("c.json")[0].contains("with 1 other"), "{:?}", bench.last.warnings);
    bench.remove("a.json");
    let delta = bench.look();
    assert_eq!(delta.wanted[0].labels.iter().next(), Some(("case", "b")));
}

#[tokio::test(start_paused = true)]
async fn a_directory_configured_twice_is_read_once() {
    let bench = Bench::new();
    bench.write("a.json", json([1]));
    let twice = vec![bench.directory.clone(), bench.directory.join("")];
    let survey = crate::directory::survey(&twice);
    assert_eq!((survey.files, survey.warnings.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn json_written_in_two_halves_is_believed_when_it_is_whole() {
    let mut bench = Bench::new();
    let (text, cut) = (json([1, 2]), 45);
    bench.write("a.json", &text[..cut]);
    assert!(bench.look().is_empty());
    bench.look_after(1).await;
    assert!(bench.last.problems.is_empty(), "it may still be written");
    bench.write("a.json", &text);
    assert_eq!(bench.look().wanted, entries([1, 2]));
}

#[tokio::test(start_paused = true)]
async fn toml_written_in_two_halves_is_believed_when_it_has_settled() {
    let mut bench = Bench::new();
    let half = format!("{}[sessions.labels]\ncase = \"A-17\"\n", toml([1]));
    bench.write("a.toml", &half);
    assert!(bench.look().is_empty(), "it says something, but maybe not all");
    assert!(bench.look_after(1).await.is_empty());
    bench.write("a.toml", format!("{half}office = \"12\"\n{}", toml([2])));
    assert!(bench.look().is_empty());
    assert!(bench.look_after(1).await.is_empty());
    let delta = bench.look_after(1).await;
    assert_eq!(delta.wanted.len(), 2);
    assert_eq!(delta.wanted[0].labels.iter().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn toml_being_written_over_keeps_its_last_content_meanwhile() {
    let mut bench = Bench::new();
    bench.write("a.toml", toml([1, 2]));
    bench.look();
    bench.look_after(2).await;
    bench.tracks([1, 2]);
    bench.write("a.toml", toml([1]));
    for _ in 0..20 {
        bench.look_after(1).await;
        bench.write("a.toml", toml([1]));
    }
    bench.tracks([1, 2]);
    bench.look();
    bench.look_after(2).await;
    bench.look_after(10).await;
    bench.tracks([1]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_never_settles_becomes_a_problem_that_says_what_to_do() {
    let mut bench = Bench::new();
    for round in 0..31 {
        bench.write("a.toml", format!("{}# {round}", toml([1])));
        bench.look_after(1).await;
    }
    assert!(bench.problems("a.toml")[0].contains("rename it"), "{:?}", bench.last.problems);
}

#[tokio::test(start_paused = true)]
async fn fifty_thousand_sessions_in_one_file_are_taken_up_at_once() {
    let mut bench = Bench::new();
    bench.write("a.json", json(0..50_000));
    assert_eq!(bench.look().wanted.len(), 50_000);
}

#[tokio::test(start_paused = true)]
async fn five_thousand_files_are_taken_up_at_once() {
    let mut bench = Bench::new();
    for number in 0..5_000 {
        bench.write(&format!("{number}.json"), json([number]));
    }
    assert_eq!(bench.look().wanted.len(), 5_000);
    assert_eq!(bench.last.files, 5_000);
}

fn entries(numbers: impl IntoIterator<Item = u32>) -> Vec<Entry> {
    let bare = |session_id| Entry {
        session_id,
        labels: crate::domain::Labels::default(),
        expires_at: None,
        interval: None,
    };
    ids(numbers).into_iter().map(bare).collect()
}

/// A million at once would be many times what is kept of them.
#[tokio::test(start_paused = true)]
async fn many_changes_are_told_in_portions_of_which_the_last_says_so() {
    let mut bench = Bench::new();
    bench.write("a.json", json(0..25_000));
    let (step, _) = bench.eyes.look();
    let deltas: Vec<Delta> = step.news.deltas().collect();
    let sizes: Vec<_> = deltas.iter().map(|delta| (delta.wanted.len(), delta.more)).collect();
    assert_eq!(sizes, [(10_000, true), (10_000, true), (5_000, false)]);
    let told = deltas.iter().flat_map(|delta| &delta.wanted).map(|entry| entry.session_id);
    assert!(told.eq(ids(0..25_000)));
    tokio::time::advance(Duration::from_secs(2)).await;
    bench.eyes.look();
    bench.remove("a.json");
    bench.look();
    tokio::time::advance(GRACE).await;
    let (step, _) = bench.eyes.look();
    let unwanted: Vec<SessionId> = step.news.deltas().flat_map(|delta| delta.unwanted).collect();
    assert_eq!(unwanted, ids(0..25_000));
}
