//! Tests the reading of database addresses.

use super::*;

fn hosts(url: &str) -> Vec<(String, u16)> {
    let address = DatabaseAddress::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    address.hosts.iter().map(|options| (options.get_host().to_owned(), options.get_port())).collect()
}

fn mode(url: &str) -> String {
    format!("{:?}", DatabaseAddress::parse(url).unwrap().hosts[0].get_ssl_mode())
}

fn error(url: &str) -> String {
    let error = DatabaseAddress::parse(url).map(drop).unwrap_err().to_string();
    for value in ["geheim", "verify-ful1", "s3cret"] {
        assert!(!error.contains(value), "{url}: {error}");
    }
    error
}

#[test]
fn libpqs_forms_are_taken() {
    assert_eq!(hosts("postgres://u:p@[::1]:5433/db"), [("::1".to_owned(), 5433)]);
    assert_eq!(hosts("postgresql://u@a:1,b:2/db?target_session_attrs=read-write"), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert_eq!(hosts("postgres://u@a,b/db?port=7"), [("a".to_owned(), 7), ("b".to_owned(), 7)]);
    assert_eq!(hosts("postgres:///db?host=a,b&port=1,2"), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let socket = DatabaseAddress::parse("postgres://%2Frun%2Fpg/db?user=u").unwrap();
    assert_eq!(socket.hosts[0].get_socket().unwrap().to_str(), Some("/run/pg"));
    let login = DatabaseAddress::parse("postgres://a%40b:p%3A%2F@h/d%20b").unwrap();
    assert_eq!((login.hosts[0].get_username(), login.hosts[0].get_database()), ("a@b", Some("d b")));
    let settings = DatabaseAddress::parse("postgres://h/db?options=-c%20geqo%3Doff%20--work-mem%3D4MB").unwrap().settings;
    assert_eq!(settings, [("geqo".to_owned(), "off".to_owned()), ("work_mem".to_owned(), "4MB".to_owned())]);
}

#[test]
fn another_machine_is_reached_by_tls_unless_that_is_turned_off_by_name() {
    for remote in ["postgres://u:geheim@db.example.com/x", "postgres://u@10.0.0.7/x", "postgres://u@db/x"] {
        assert_eq!(mode(remote), "Require", "{remote}");
        assert_eq!(mode(&format!("{remote}?sslmode=disable")), "Disable");
        assert_eq!(mode(&format!("{remote}?sslmode=verify-full")), "VerifyFull");
        assert_eq!(mode(&format!("{remote}?sslmode=require&sslrootcert=/ca.pem")), "VerifyCa");
        assert_eq!(mode(&format!("{remote}?sslrootcert=system")), "VerifyFull");
        for open in ["prefer", "allow"] {
            assert!(error(&format!("{remote}?sslmode={open}")).contains("sslmode"));
        }
    }
    for local in ["postgres://u@localhost/x", "postgres://u@127.0.0.2/x", "postgres://u@[::1]/x", "postgres:///x?host=/tmp"] {
        assert_eq!(mode(local), "Prefer", "{local}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_by_name_and_no_value_is_repeated() {
    for (url, named) in [
        ("mysql://u:geheim@h/db", "postgres://"),
        ("host=h password=geheim", "postgres://"),
        ("postgres://u:geheim@h/db?sslmod=verify-full", "sslmod"),
        ("postgres://u:geheim@h/db?ssl=true", "ssl"),
        ("postgres://u:geheim@h/db?sslmode=verify-ful1", "sslmode"),
        ("postgres://u:geheim@h/db?sslpassword=s3cret", "sslpassword"),
        ("postgres://u:geheim@h/db?passfile=/s3cret", "passfile"),
        ("postgres://u:geheim@h/db?service=s3cret", "service"),
        ("postgres://u:geheim@h/db?channel_binding=require", "channel_binding"),
        ("postgres://u:geheim@h/db?target_session_attrs=standby", "target_session_attrs"),
        ("postgres://u:geheim@h/db?hostaddr=s3cret", "hostaddr"),
        ("postgres://u:geheim@h:geheim/db", "port"),
        ("postgres://u:geheim@[::1/db", "["),
        ("postgres://u:geheim@h/db?options=-d%20s3cret", "options"),
        ("postgres://u:gehe&S3CRET@h/db?x&S3CRET=1", "parameter"),
    ] {
        assert!(error(url).contains(named), "{url}: {}", error(url));
    }
}
