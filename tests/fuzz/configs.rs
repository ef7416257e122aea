//! Whatever stands in a config file: no panic, a report that says something, and nothing that came from `${…}` in it.

use std::path::Path;

use sidehook::clock::Clock;
use sidehook::config;

use super::fuzz;

/// Never to be shown. Long enough not to be met by chance.
const HIDDEN: &str = "swordfish-4711";

const WORDS: [&str; 30] = [
    "${TOKEN}",
    "${TOKEN:-x}",
    "${",
    "$${",
    "${X:?a: b}",
    "!x",
    "[*]",
    "*",
    "&a ",
    "*a",
    "<<: *a",
    "? ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "|\n",
    ">-\n",
    "#",
    "'",
    "\"",
    "\t",
    "---\n",
    "~",
    "99999999999999999999",
    "null",
    "signing: {scheme: none}\n",
    "\u{feff}",
];

/// Every configuration of the tests' folders, and one that is good.
fn corpus() -> Vec<Vec<u8>> {
    let good = "sources: {events: {type: http, listen: 127.0.0.1:7070}}\nwebhooks:\n  crm:\n    url: https://crm.example.com/x?token=${TOKEN}\n    events: [\"conversation.*\"]\n    headers: {Authorization: \"Bearer ${TOKEN}\"}\n    params: {event: event.type, data: event.data}\n    when: event.metadata.region == \"eu\"\n    wait_for: {analysis: [a], timeout: 60s}\n    signing: {scheme: standard, secrets: [{env: SECRET}]}\n    retry: {schedule: [5s, 5m], jitter: 0.2, statuses: [408, 5xx]}\n    rate_limit: 50/s\n    breaker: {failures: 10, open_for: 30s}\n";
    let mut all = Vec::new();
    gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config"), &mut all);
    assert!(all.len() > 40, "only {} configurations", all.len());
    // Every second one starts from what is good, so that the far end of the loader is reached as well.
    all.extend(vec![good.as_bytes().to_vec(); all.len()]);
    all
}

fn gather(dir: &Path, all: &mut Vec<Vec<u8>>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            gather(&path, all);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            // Some cases are links that lead nowhere.
            all.extend(std::fs::read(path));
        }
    }
}

#[test]
fn the_config_loader_takes_or_reports_whatever_it_finds() {
    let env = |name: &str| match name {
        "SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        "UNSET" => None,
        _ => Some(HIDDEN.to_owned()),
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("webhooks")).unwrap();
    std::fs::create_dir_all(dir.path().join("rules")).unwrap();
    std::fs::write(dir.path().join("rules/crm.rhai"), "fn accept(event) { true }").unwrap();
    let (main, hook, single) =
        (dir.path().join("sidehook.yaml"), dir.path().join("webhooks/crm.yaml"), dir.path().join("single.yaml"));
    fuzz("configs", &corpus(), &WORDS, |input, random| {
        // As the single file, as the main file of a directory, as a webhook's file.
        let path = match random.below(3) {
            0 => {
                std::fs::write(&single, input).unwrap();
                single.as_path()
            }
            kind => {
                let (one, other) = if kind == 1 { (&main, &hook) } else { (&hook, &main) };
                std::fs::write(one, input).unwrap();
                std::fs::write(other, "").unwrap();
                dir.path()
            }
        };
        match config::load(path, &env, &Clock::System) {
            Ok(_) => true,
            Err(report) => {
                let text = report.to_string();
                assert!(!text.trim().is_empty(), "an empty report");
                assert!(!text.contains(HIDDEN), "a value from the environment is shown:\n{text}");
                assert!(!text.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "a secret is shown:\n{text}");
                false
            }
        }
    });
}
