//! The JSON contract, held against everything that every program says in every case.

use std::net::SocketAddr;

use serde_json::Value;

use crate::programs::Line;

/// Checks every line, and their order. `code` is `None` for a program that was killed.
pub(crate) fn check(name: &str, lines: &[Line], code: Option<i32>) {
    let mut kinds = Vec::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line.text)
            .unwrap_or_else(|error| panic!("{name} said {:?}: {error}", line.text));
        check_fields(name, &event);
        kinds.push(event["event"].as_str().unwrap().to_owned());
    }
    check_order(name, &kinds, code);
    check_rate(name, lines);
}

/// The name of a field, and whether a value fits it.
type Field = (&'static str, fn(&Value) -> bool);

/// Checks the fields of one event, their types and their number.
fn check_fields(name: &str, event: &Value) {
    let fields: &[Field] = match event["event"].as_str() {
        Some("ready") => &[("url", is_text), ("stun", is_stun)],
        Some("draining") => &[("allocations", Value::is_u64), ("meetings", Value::is_u64)],
        Some("code") => &[("code", is_code)],
        Some("path") => &[
            ("kind", is_path_kind),
            ("protocol", |value| value == "udp" || value == "tcp"),
            ("technique", is_technique),
            ("probes", Value::is_u64),
            ("sockets", Value::is_u64),
            ("local", is_address),
            ("remote", is_address),
            ("elapsed_ms", Value::is_u64),
        ],
        Some("explain") => &[
            ("local_nat", is_nat),
            ("remote_nat", is_nat),
            ("tried", is_tried),
            ("cause", |value| value.is_null() || is_word(value)),
            ("reason", is_sentence),
        ],
        Some("progress") => &[("bytes", Value::is_u64), ("total", Value::is_u64)],
        Some("done") => &[
            ("bytes", Value::is_u64),
            ("files", Value::is_u64),
            ("seconds", Value::is_f64),
            ("path", is_path_kind),
        ],
        Some("error") => &[("kind", is_word), ("message", is_sentence)],
        _ => panic!("{name} said {event}, which is no event"),
    };
    let count = event.as_object().unwrap().len();
    let optional = usize::from(has_relay(name, event));
    assert_eq!(count, fields.len() + 1 + optional, "{name} said {event}");
    for (field, fits) in fields {
        assert!(fits(&event[*field]), "{name}: {field} in {event}");
    }
}

/// Whether the event says how a relay carries a path.
fn has_relay(name: &str, event: &Value) -> bool {
    let Some(relay) = event.get("relay") else {
        return false;
    };
    assert_eq!(event["kind"], "relayed", "{name} said {event}");
    let known = ["udp", "tcp", "tls"].iter().any(|word| relay == word);
    assert!(known, "{name} said {event}");
    true
}

/// A path comes before progress, and `done` or `error` comes last, once.
fn check_order(name: &str, kinds: &[String], code: Option<i32>) {
    let first = |kind: &str| kinds.iter().position(|found| found == kind);
    let path = first("path").unwrap_or(kinds.len());
    for later in ["progress", "done"] {
        let later = first(later).unwrap_or(kinds.len());
        assert!(path <= later, "{name}: {kinds:?}");
    }
    let is_end = |kind: &&String| *kind == "done" || *kind == "error";
    let ends = kinds.iter().filter(is_end).count();
    assert!(ends <= 1, "{name}: {kinds:?}");
    let last = kinds.last().map(String::as_str);
    match code {
        Some(0) => {
            let ended = matches!(last, Some("done" | "ready" | "draining"));
            assert!(ended, "{name}: {kinds:?}");
        }
        Some(_) => assert_eq!(last, Some("error"), "{name}: {kinds:?}"),
        None => {}
    }
}

/// At most four progress events a second. They are timed where they are read, so one is
/// forgiven.
fn check_rate(name: &str, lines: &[Line]) {
    let is_progress = |line: &&Line| line.event()["event"] == "progress";
    let progress: Vec<&Line> = lines.iter().filter(is_progress).collect();
    let (Some(first), Some(last)) = (progress.first(), progress.last()) else {
        return;
    };
    let allowed = 2.0 + 4.0 * (last.at - first.at).as_secs_f64();
    let count = progress.len();
    assert!(count as f64 <= allowed, "{name}: {count} > {allowed}");
}

/// What is on standard error: one line, `postern: ` and a sentence. Returns the sentence.
pub(crate) fn check_complaint(stderr: &str) -> String {
    let line = stderr.strip_suffix('\n').unwrap_or_default();
    let sentence = line.strip_prefix("postern: ").unwrap_or_default();
    assert!(is_prose(sentence), "standard error was {stderr:?}");
    sentence.to_owned()
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn is_stun(value: &Value) -> bool {
    let is_uri = |uri: &Value| {
        let address = uri.as_str().and_then(|uri| uri.strip_prefix("stun:"));
        address.is_some_and(|address| address.parse::<SocketAddr>().is_ok())
    };
    value
        .as_array()
        .is_some_and(|uris| !uris.is_empty() && uris.iter().all(is_uri))
}

fn is_code(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let mut parts = text.split('-');
    let number: Option<u32> = parts.next().and_then(|number| number.parse().ok());
    let words: Vec<&str> = parts.collect();
    let is_word = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    number.is_some() && words.len() == 2 && words.iter().all(is_word)
}

fn is_nat(value: &Value) -> bool {
    let fact = |name: &str| value[name].is_boolean() || value[name].is_null();
    let words = ["mapping", "filtering", "allocation"];
    let range = &value["port_range"];
    let ports = range.as_array().is_some_and(|ports| ports.len() == 2);
    let step = &value["step"];
    ["nat", "udp"].iter().all(|name| fact(name))
        && words.iter().all(|name| is_word(&value[*name]))
        && (range.is_null() || ports)
        && (step.is_null() || step.is_i64())
}

fn is_tried(value: &Value) -> bool {
    let tried = value.as_array();
    tried.is_some_and(|tried| !tried.is_empty() && tried.iter().all(is_attempt))
}

fn is_attempt(value: &Value) -> bool {
    let chance = &value["probability"];
    let likely = chance
        .as_f64()
        .is_some_and(|chance| (0.0..=1.0).contains(&chance));
    is_technique(&value["technique"])
        && is_word(&value["result"])
        && value["probes"].is_u64()
        && value["elapsed_ms"].is_u64()
        && (chance.is_null() || likely)
}

fn is_path_kind(value: &Value) -> bool {
    value == "direct" || value == "relayed"
}

fn is_address(value: &Value) -> bool {
    let address = value.as_str().map(str::parse::<SocketAddr>);
    matches!(address, Some(Ok(address)) if !address.ip().is_unspecified() && address.port() > 0)
}

/// A word of docs/json.md; some of them have digits.
fn is_technique(value: &Value) -> bool {
    value == "ipv6" || value == "nat64" || is_word(value)
}

fn is_word(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn is_sentence(value: &Value) -> bool {
    is_prose(value.as_str().unwrap_or_default())
}

/// Whether a person can be shown this: one line, no control characters, nothing that only
/// the programmer understands.
fn is_prose(text: &str) -> bool {
    let internal = ["panicked", "Error(", "Err(", "Some(", "Os {", "::", "kind:"];
    // An IPv6 address is the only thing with two colons that people see.
    let is_internal =
        |part: &&str| text.contains(*part) && !(**part == *"::" && text.contains('['));
    text.chars().count() >= 10
        && text.contains(' ')
        && !text.chars().any(char::is_control)
        && !internal.iter().any(is_internal)
}
