//! Requests that are wrong, or meant to do harm, and what the specifications want answered.

use postern_wire::upnp::http::Headers;
use postern_wire::upnp::soap::{Arguments, Call};

use super::super::MAX_DESCRIPTION;
use super::support::{Bed, entry, post, request, with};

const HOST: &str = "192.168.1.10";

#[test]
fn arguments_that_are_wrong_are_answered_with_their_code_and_map_nothing() {
    let mut bed = Bed::new();
    let right = entry().to_arguments();
    for (name, value, code) in [
        ("NewInternalClient", "192.168.1.11", 606),
        ("NewInternalClient", "192.168.1.1", 606),
        ("NewInternalClient", "8.8.8.8", 606),
        ("NewInternalClient", "", 402),
        ("NewInternalClient", "a.host.example", 402),
        ("NewInternalClient", "::1", 402),
        ("NewExternalPort", "80", 606),
        ("NewExternalPort", "0", 716),
        ("NewExternalPort", "65536", 600),
        ("NewExternalPort", "abc", 600),
        ("NewExternalPort", "-1", 600),
        ("NewExternalPort", "4010x", 600),
        ("NewExternalPort", "+4010", 600),
        ("NewInternalPort", "0", 732),
        ("NewProtocol", "SCTP", 600),
        ("NewProtocol", "", 600),
        ("NewProtocol", "<x", 600),
        ("NewProtocol", "tcp", 600),
        ("NewRemoteHost", "zzz", 402),
        ("NewRemoteHost", "2001:db8::1", 402),
        ("NewEnabled", "2", 600),
        ("NewLeaseDuration", "4294967296", 600),
        ("NewLeaseDuration", "-5", 600),
    ] {
        let wrong = with(&right, name, value);
        let result = bed.call(HOST, 1, "AddPortMapping", wrong);
        assert_eq!(result, Err(code), "{name}={value:?}");
    }
    let mut missing = Arguments::default();
    for (name, value) in right.iter().take(7) {
        missing = missing.with(name, value);
    }
    assert_eq!(bed.call(HOST, 1, "AddPortMapping", missing), Err(402));
    assert_eq!(bed.call(HOST, 1, "Unknown", Arguments::default()), Err(401));
    assert_eq!(bed.gateway.leases().count(), 0);
}

#[test]
fn a_description_is_kept_as_text_and_cut() {
    let mut bed = Bed::new();
    let evil = "x\nTCP:4022:192.168.1.11:4022:1999999999:evil </NewDescription> \u{1b}[2J";
    let right = entry().to_arguments();
    let name = "NewPortMappingDescription";
    bed.call(HOST, 1, "AddPortMapping", with(&right, name, evil))
        .unwrap();
    let description = &bed.gateway.leases().next().unwrap().description;
    assert!(description.contains("evil </NewDescription>"));
    let long = "ü".repeat(5000);
    bed.call(HOST, 1, "AddPortMapping", with(&right, name, &long))
        .unwrap();
    assert_eq!(
        bed.gateway.leases().next().unwrap().description.len(),
        MAX_DESCRIPTION
    );
    let key = entry().key.to_arguments();
    assert!(
        bed.call(HOST, 1, "GetSpecificPortMappingEntry", key)
            .is_ok()
    );
}

fn call() -> Call {
    Call {
        service: "urn:schemas-upnp-org:service:WANIPConnection:1".to_owned(),
        action: "AddPortMapping".to_owned(),
        arguments: entry().to_arguments(),
    }
}

#[test]
fn a_web_page_maps_nothing() {
    let mut bed = Bed::new();
    let path = "/control/WANIPConn1";
    let right = post(HOST, path, &call());
    let replaced = |name: &str, value: Option<&str>| {
        let mut headers = Headers::default();
        for (known, old) in right.headers.iter() {
            match value {
                Some(value) if known == name => headers.add(name, value),
                None if known == name => {}
                _ => headers.add(known, old),
            }
        }
        request(
            "POST",
            path,
            headers,
            std::str::from_utf8(&right.body).unwrap(),
        )
    };
    let mut with_origin = right.clone();
    with_origin.headers.add("Origin", "http://evil.example");
    for (status, request) in [
        (403, replaced("Host", Some("evil.example"))),
        (403, replaced("Host", Some("192.168.1.1"))),
        (403, replaced("Host", Some("192.168.1.1:80"))),
        (403, replaced("Host", Some("192.168.1.2:5000"))),
        (400, replaced("Host", None)),
        (403, with_origin),
        (415, replaced("Content-Type", Some("text/plain"))),
        (415, replaced("Content-Type", None)),
        (400, replaced("SOAPAction", None)),
    ] {
        assert_eq!(bed.http(HOST, &request).status, status, "{request:?}");
    }
    assert_eq!(bed.gateway.leases().count(), 0);
    assert_eq!(bed.http(HOST, &right).status, 200);
}

#[test]
fn a_soap_action_without_quotes_is_understood_and_one_that_disagrees_is_not() {
    let mut bed = Bed::new();
    let path = "/control/WANIPConn1";
    let header = |value: &str| {
        let headers = Headers::default()
            .with("Host", Bed::HTTP)
            .with("Content-Type", "text/xml")
            .with("SOAPAction", value);
        request("POST", path, headers, &call().to_xml())
    };
    let urn = "urn:schemas-upnp-org:service:WANIPConnection:1";
    assert_eq!(
        bed.http(HOST, &header(&format!("{urn}#AddPortMapping")))
            .status,
        200
    );
    assert_eq!(
        bed.http(HOST, &header(&format!("\"{urn}#DeletePortMapping\"")))
            .status,
        500
    );
    assert_eq!(bed.http(HOST, &header("nonsense")).status, 500);
}

#[test]
fn documents_that_are_bombs_are_answered_and_not_unpacked() {
    let mut bed = Bed::new();
    let bomb = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\">\
                <!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]><x>&b;</x>";
    let nested = format!("{}{}", "<a>".repeat(50_000), "</a>".repeat(50_000));
    for body in [bomb, &nested, "", "<", "\u{0}"] {
        let mut wrong = post(HOST, "/control/WANIPConn1", &call());
        wrong.body = body.as_bytes().to_vec();
        let response = bed.http(HOST, &wrong);
        assert_eq!(response.status, 500);
        assert!(String::from_utf8_lossy(&response.body).contains("402"));
    }
}

#[test]
fn a_service_does_not_answer_for_another_one() {
    let mut bed = Bed::new();
    let ppp = "urn:schemas-upnp-org:service:WANPPPConnection:1";
    let path = "/control/WANIPConn1";
    let arguments = entry().to_arguments();
    let result = bed.call_at(HOST, path, ppp, "AddPortMapping", arguments.clone());
    assert_eq!(result, Err(401));
    let version = "urn:schemas-upnp-org:service:WANIPConnection:3";
    let result = bed.call_at(HOST, path, version, "AddPortMapping", arguments);
    assert_eq!(result, Err(401));
    assert_eq!(
        bed.http(HOST, &post(HOST, "/control/Nothing", &call()))
            .status,
        404
    );
}

#[test]
fn methods_and_paths_that_are_not_there_are_not_found() {
    let mut bed = Bed::new();
    for path in [
        "/",
        "/rootDesc.xml/",
        "/scpd/WANIPConn1/3",
        "/scpd/WANIPConn1/0",
        "/../etc",
    ] {
        assert_eq!(bed.get(path, "").status, 404, "{path}");
    }
    let headers = Headers::default().with("Host", Bed::HTTP);
    assert_eq!(
        bed.http(HOST, &request("PUT", "/", headers, "")).status,
        405
    );
    assert_eq!(bed.get("/scpd/WANIPConn1/2", "").status, 200);
}

#[test]
fn nobody_outside_is_answered() {
    let mut bed = Bed::new();
    let response = bed.http("45.45.45.1", &post(HOST, "/control/WANIPConn1", &call()));
    assert_eq!(response.status, 403);
}

#[test]
fn old_clients_of_microsoft_see_a_device_of_version_1() {
    let mut bed = Bed::new();
    let shown = |bed: &mut Bed, agent: &str| {
        let response = bed.get("/rootDesc.xml", agent);
        String::from_utf8(response.body).unwrap()
    };
    let version_2 = "InternetGatewayDevice:2";
    assert!(shown(&mut bed, "").contains(version_2));
    for agent in ["Microsoft-Windows/10.0 UPnP/1.0", "FDSSDP"] {
        let xml = shown(&mut bed, agent);
        assert!(!xml.contains(version_2) && xml.contains("InternetGatewayDevice:1"));
        assert!(!xml.contains("WANIPv6FirewallControl"));
    }
}
