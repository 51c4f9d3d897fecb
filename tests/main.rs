//! The command itself, end to end: each step of the demo is checked by the demo, and by its exit code here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod audit;
mod demo;
mod ledger;
mod own_project;
mod structure;
mod support;

use std::process::{Command, Output};

fn custody(folder: &std::path::Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_custody"))
        .current_dir(folder)
        .env("HOME", folder)
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .args(arguments)
        .output()
        .expect("the command runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_project_of_ones_own() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(custody(folder.path(), &["init", "shop"]).status.success());
    let shop = folder.path().join("shop");
    let write = |path: &str, text: &str| {
        let path = shop.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    write("raw/orders/orders.csv", "id,ts,amount\n1,2026-01-01T00:00:00Z,10.5\n1,2026-01-02T00:00:00Z,4.5\n");
    write(
        "sources/orders.sql",
        "CREATE SOURCE raw.orders (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, amount DOUBLE)\n\
         FROM CSV 'raw/orders' ENTITY customer (id) EVENT TIME ts;\n",
    );
    write(
        "features/spend.sql",
        "CREATE FEATURE VIEW features.spend ENTITY customer (id) EVENT TIME ts\n\
         AS SELECT id, max(ts) AS ts, sum(amount) AS total FROM raw.orders GROUP BY id;\n",
    );
    let published = custody(&shop, &["publish", "-m", "first"]);
    assert!(published.status.success(), "{}", text(&published));
    let rows = custody(&shop, &["sql", "-c", "SELECT id, total FROM features.spend"]);
    assert_eq!(String::from_utf8_lossy(&rows.stdout).trim(), r#"{"id":1,"total":15.0}"#, "{}", text(&rows));
    let again = custody(&shop, &["publish", "-m", "again"]);
    assert!(text(&again).contains("nothing changed"), "{}", text(&again));
    let deep = custody(&shop, &["verify", "features.spend@1", "--deep"]);
    assert!(deep.status.success(), "{}", text(&deep));
    for (statement, code, exit) in [
        ("COPY raw.orders TO 1", "C1002", 1),
        ("SELECT * FROM raw.nothing", "C6001", 6),
        ("SELECT nothing FROM features.spend", "C1101", 1),
    ] {
        let refused = custody(&shop, &["sql", "-c", statement]);
        assert_eq!(refused.status.code(), Some(exit), "{}", text(&refused));
        assert!(text(&refused).contains(code), "{}", text(&refused));
    }
}
