//! What packages install beside the binary: the manual and completions.

use tokio::process::Command;

use crate::common::{Home, Printed};

const COMMANDS: [&str; 16] = [
    "run",
    "check",
    "track",
    "untrack",
    "sessions",
    "show",
    "events",
    "export",
    "import",
    "poll",
    "plan",
    "schema",
    "demo",
    "simulate",
    "completions",
    "man",
];

fn ibvwatch(home: &Home, arguments: &[&str]) -> Command {
    let mut command = Command::new(home.command(&[]).as_std().get_program());
    command.args(arguments).env_clear();
    command
}

#[tokio::test]
async fn every_shell_gets_completions_of_every_command() {
    let home = Home::new().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = Printed::of(ibvwatch(&home, &["completions", shell])).await.succeeded();
        for name in COMMANDS {
            assert!(script.contains(name), "{shell} does not know {name}");
        }
        if shell == "bash" {
            let file = home.path("completions");
            std::fs::write(&file, script).expect("a file that can be written");
            let mut bash = Command::new("bash");
            bash.arg("-n").arg(file);
            Printed::of(bash).await.succeeded();
        }
    }
    let mut unknown = ibvwatch(&home, &["completions", "dosbatch"]);
    assert_eq!(unknown.output().await.expect("a program that starts").status.code(), Some(2));
}

#[tokio::test]
async fn the_manual_tells_of_every_command_and_what_surrounds_them() {
    let home = Home::new().await;
    let page = Printed::of(ibvwatch(&home, &["man"])).await.succeeded();
    for name in COMMANDS {
        assert!(page.contains(&format!("\n.SS \"{name}\"\n")), "{name}");
    }
    for words in [".SH FILES", ".SH ENVIRONMENT", ".SH SIGNALS", ".SH \"EXIT STATUS\"", "78"] {
        assert!(page.contains(words), "{words}");
    }
    let directory = home.path("man1");
    std::fs::create_dir(&directory).expect("a directory");
    let directory = directory.display().to_string();
    let printed = Printed::of(ibvwatch(&home, &["man", "--dir", &directory])).await.succeeded();
    assert_eq!(printed.lines().count(), 1 + COMMANDS.len());
    assert_eq!(std::fs::read_to_string(format!("{directory}/ibvwatch.1")).expect("a page"), page);
    for name in COMMANDS {
        assert!(printed.contains(&format!("{directory}/ibvwatch-{name}.1\n")), "{printed}");
    }
    let missing = ibvwatch(&home, &["man", "--dir", "/nowhere"]);
    assert!(Printed::of(missing).await.refused(1).contains("/nowhere/ibvwatch.1"));
}

#[tokio::test]
async fn mandoc_finds_no_fault_with_the_manual() {
    let home = Home::new().await;
    let directory = home.path("man1");
    std::fs::create_dir(&directory).expect("a directory");
    let arguments = ["man", "--dir", &directory.display().to_string()];
    let pages = Printed::of(ibvwatch(&home, &arguments)).await.succeeded();
    for page in pages.lines() {
        let mut lint = Command::new("mandoc");
        lint.args(["-T", "lint", "-W", "error", page]);
        assert_eq!(Printed::of(lint).await.succeeded(), "");
    }
}
