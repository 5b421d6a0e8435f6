//! GENA.

use std::time::Duration;

use postern_wire::upnp::http::{Headers, Response};

use super::support::{Bed, entry, request};

const HOST: &str = "192.168.1.10";
const PATH: &str = "/event/WANIPConn1";

fn subscribe(bed: &mut Bed, callback: &str) -> Response {
    let headers = Headers::default()
        .with("Host", Bed::HTTP)
        .with("CALLBACK", callback)
        .with("NT", "upnp:event")
        .with("TIMEOUT", "Second-infinite");
    bed.http(HOST, &request("SUBSCRIBE", PATH, headers, ""))
}

fn with_sid(bed: &mut Bed, from: &str, method: &str, sid: &str) -> u16 {
    let headers = Headers::default().with("Host", Bed::HTTP).with("SID", sid);
    bed.http(from, &request(method, PATH, headers, "")).status
}

#[test]
fn a_subscriber_is_told_the_state_and_then_the_changes() {
    let mut bed = Bed::new();
    let response = subscribe(&mut bed, "<http://192.168.1.10:8080/me>");
    assert_eq!(response.status, 200);
    assert_eq!(response.headers.get("TIMEOUT"), Some("Second-1800"));
    let sid = response.headers.get("SID").unwrap().to_owned();
    let (to, first) = bed.delivered.pop().unwrap();
    assert_eq!(to, "192.168.1.10:8080".parse().unwrap());
    assert_eq!((&first.method[..], &first.target[..]), ("NOTIFY", "/me"));
    assert_eq!(first.headers.get("SEQ"), Some("0"));
    assert_eq!(first.headers.get("SID"), Some(&sid[..]));
    let body = String::from_utf8(first.body).unwrap();
    assert!(
        body.contains("<ExternalIPAddress>45.45.45.2</ExternalIPAddress>"),
        "{body}"
    );

    bed.call(HOST, 1, "AddPortMapping", entry().to_arguments())
        .unwrap();
    bed.pass(Duration::from_millis(200));
    let (_, second) = bed.delivered.pop().unwrap();
    assert_eq!(second.headers.get("SEQ"), Some("1"));
    let body = String::from_utf8(second.body).unwrap();
    assert!(body.contains("<PortMappingNumberOfEntries>1<"), "{body}");
    assert!(bed.delivered.is_empty());

    assert_eq!(with_sid(&mut bed, HOST, "SUBSCRIBE", &sid), 200);
    assert_eq!(with_sid(&mut bed, "192.168.1.11", "UNSUBSCRIBE", &sid), 412);
    assert_eq!(with_sid(&mut bed, HOST, "UNSUBSCRIBE", &sid), 200);
    assert_eq!(with_sid(&mut bed, HOST, "UNSUBSCRIBE", &sid), 412);
    assert_eq!(with_sid(&mut bed, HOST, "SUBSCRIBE", &sid), 412);
}

#[test]
fn events_go_to_nobody_but_the_subscriber() {
    let mut bed = Bed::new();
    for callback in [
        "<http://192.168.1.11/>",
        "<http://8.8.8.8/>",
        "<http://evil.example/>",
        "<https://192.168.1.10/>",
        "http://192.168.1.10/",
        "",
    ] {
        assert_eq!(subscribe(&mut bed, callback).status, 412, "{callback}");
    }
    let headers = Headers::default()
        .with("Host", Bed::HTTP)
        .with("CALLBACK", "<http://192.168.1.10/>");
    let without_nt = bed.http(HOST, &request("SUBSCRIBE", PATH, headers, ""));
    assert_eq!(without_nt.status, 412);
    assert!(bed.delivered.is_empty());
}

#[test]
fn a_host_has_few_subscriptions_and_those_that_fail_end() {
    let mut bed = Bed::new();
    let statuses: Vec<u16> = (0..10)
        .map(|_| subscribe(&mut bed, "<http://192.168.1.10:8080/>").status)
        .collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 503, 503]);
    bed.pass(Duration::from_secs(1801));
    let again = subscribe(&mut bed, "<http://192.168.1.10:8080/>");
    assert_eq!(again.status, 200, "the others have ended");
    bed.fails = true;
    for _ in 0..5 {
        let entry = entry().to_arguments();
        bed.call(HOST, 1, "AddPortMapping", entry).unwrap();
        bed.pass(Duration::from_secs(1));
    }
    bed.delivered.clear();
    let entry = entry().to_arguments();
    bed.call(HOST, 1, "AddPortMapping", entry).unwrap();
    bed.pass(Duration::from_secs(1));
    assert!(bed.delivered.is_empty());
}
