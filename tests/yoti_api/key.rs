use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ibvwatch::yoti::{KeyError, KeyFault, PrivateKey, Secret};
use tempfile::TempDir;

use super::PUBLISHED_KEY;

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .current_dir(directory)
        .args(arguments.split(' '))
        .output()
        .expect("these tests need the openssl command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A directory with the published key in it.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "key.pem", PUBLISHED_KEY);
    directory
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Makes a key, and `public.pem` to verify its signatures with.
pub(crate) fn key_pair(directory: &Path) -> PrivateKey {
    openssl(directory, "genrsa -out key.pem 2048");
    openssl(directory, "rsa -in key.pem -pubout -out public.pem");
    PrivateKey::load(&directory.join("key.pem"), None).expect("a key that openssl made")
}

fn made_by_openssl(arguments: &str) -> String {
    let directory = directory();
    openssl(directory.path(), arguments);
    fs::read_to_string(directory.path().join("new.pem")).unwrap()
}

fn from_pem(text: &str) -> Result<PrivateKey, KeyFault> {
    PrivateKey::from_pem(&Secret::new(text.as_bytes().to_vec()))
}

#[test]
fn both_forms_of_pem_hold_the_same_key() {
    let pkcs8 = made_by_openssl("pkcs8 -topk8 -nocrypt -in key.pem -out new.pem");
    assert!(pkcs8.starts_with("-----BEGIN PRIVATE KEY-----"));
    let [one, other] =
        [PUBLISHED_KEY, &pkcs8].map(|pem| from_pem(pem).unwrap().sign(b"message").unwrap());
    assert_eq!(one, other);
}

#[test]
fn white_space_around_and_within_the_file_is_forgiven() {
    let indented = PUBLISHED_KEY.replace('\n', " \t\n   ");
    for pem in [
        format!("\n \t\n{PUBLISHED_KEY}\n\n   \n"),
        PUBLISHED_KEY.replace('\n', "\r\n"),
        PUBLISHED_KEY.replace('\n', "\r"),
        PUBLISHED_KEY.trim_end().to_owned(),
        format!("\u{feff}{PUBLISHED_KEY}"),
        format!("Bag Attributes\n    friendlyName: yoti\n{PUBLISHED_KEY}"),
        indented,
    ] {
        assert!(from_pem(&pem).is_ok(), "{pem:?}");
    }
}

#[test]
fn a_public_key_or_certificate_beside_the_key_does_no_harm() {
    let public = made_by_openssl("rsa -in key.pem -pubout -out new.pem");
    assert!(from_pem(&format!("{public}{PUBLISHED_KEY}{public}")).is_ok());
}

#[test]
fn what_is_not_one_plain_rsa_key_of_2048_bits_is_refused_by_name() {
    let public = made_by_openssl("rsa -in key.pem -pubout -out new.pem");
    let certificate = made_by_openssl("req -x509 -new -key key.pem -subj /CN=x -out new.pem");
    let weak = made_by_openssl("genrsa -out new.pem 1024");
    let weak_old = made_by_openssl("genrsa -traditional -out new.pem 1024");
    let curve =
        made_by_openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out new.pem");
    let curve_old = made_by_openssl("ecparam -name prime256v1 -genkey -out new.pem");
    let edwards = made_by_openssl("genpkey -algorithm ED25519 -out new.pem");
    let encrypted = made_by_openssl("pkcs8 -topk8 -passout pass:secret -in key.pem -out new.pem");
    let encrypted_old =
        made_by_openssl("rsa -aes128 -traditional -passout pass:secret -in key.pem -out new.pem");
    assert!(encrypted_old.contains("Proc-Type"));
    let damaged = PUBLISHED_KEY.replacen("MIIE", "AAAA", 1);
    let (cut, _) = PUBLISHED_KEY.split_at(700);
    for (pem, fault) in [
        (public.as_str(), KeyFault::NotPrivate("public key")),
        (&certificate, KeyFault::NotPrivate("certificate")),
        (&weak, KeyFault::Weak),
        (&weak_old, KeyFault::Weak),
        (&curve, KeyFault::NotRsa),
        (&curve_old, KeyFault::NotRsa),
        (&edwards, KeyFault::NotRsa),
        (&encrypted, KeyFault::Encrypted),
        (&encrypted_old, KeyFault::Encrypted),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", KeyFault::OpenSsh),
        (&PUBLISHED_KEY.repeat(2), KeyFault::Several(2)),
        (&damaged, KeyFault::Damaged),
        (cut, KeyFault::Damaged),
        ("", KeyFault::NotPem),
        ("hunter2", KeyFault::NotPem),
    ] {
        let found = from_pem(pem).unwrap_err();
        assert_eq!(found, fault, "{pem}");
    }
}

#[test]
fn a_file_that_others_may_read_is_refused_with_its_mode_and_the_remedy() {
    let directory = directory();
    let path = directory.path().join("key.pem");
    for mode in [0o640, 0o604, 0o660, 0o644, 0o620, 0o601] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = PrivateKey::load(&path, None).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, KeyError::Exposed { .. }), "{message}");
        assert!(message.contains(&format!("mode {mode:04o}")), "{message}");
        assert!(message.ends_with(&format!("chmod 600 {}", path.display())), "{message}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(PrivateKey::load(&path, None).is_ok());
    }
}

#[test]
fn a_systemd_credential_may_have_any_mode() {
    let credentials = directory();
    let elsewhere = directory();
    let open = fs::Permissions::from_mode(0o440);
    let credential = credentials.path().join("key.pem");
    let other = elsewhere.path().join("key.pem");
    fs::set_permissions(&credential, open.clone()).unwrap();
    fs::set_permissions(&other, open).unwrap();
    let within = Some(credentials.path());
    assert!(PrivateKey::load(&credential, within).is_ok());
    assert!(PrivateKey::load(&other, within).is_err());

    let way_out = credentials.path().join("link.pem");
    std::os::unix::fs::symlink(&other, &way_out).unwrap();
    assert!(PrivateKey::load(&way_out, within).is_err());
    let around = credentials.path().join("..").join(other.strip_prefix("/tmp").unwrap_or(&other));
    assert!(PrivateKey::load(&around, within).is_err());
}

#[test]
fn a_file_that_is_no_readable_key_file_is_named_with_the_reason() {
    let directory = directory();
    let missing = directory.path().join("missing.pem");
    let large = write(directory.path(), "large.pem", &"x".repeat(100_000));
    let html = write(directory.path(), "html.pem", "<html>");
    for (path, words) in [
        (missing.as_path(), "No such file"),
        (directory.path(), "directory"),
        (&large, "larger than 65536 bytes"),
        (&html, "not a PEM file"),
    ] {
        let message = PrivateKey::load(path, None).unwrap_err().to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn nothing_of_a_key_is_ever_printed() {
    let key = from_pem(PUBLISHED_KEY).unwrap();
    assert_eq!(format!("{key:?} {key:#?}"), "PrivateKey(2048 bits) PrivateKey(2048 bits)");
    let directory = directory();
    let broken = write(directory.path(), "broken.pem", &PUBLISHED_KEY.replacen("MIIE", "!!!!", 1));
    let error = PrivateKey::load(&broken, None).unwrap_err();
    let shown = format!("{error} {error:?}");
    for line in PUBLISHED_KEY.lines().filter(|line| !line.starts_with('-')) {
        assert!(!shown.contains(&line[4..]), "{shown}");
    }
}
