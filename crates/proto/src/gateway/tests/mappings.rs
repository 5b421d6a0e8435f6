//! WANIPConnection, versions 1 and 2.

use std::time::Duration;

use postern_wire::transport::Transport;
use postern_wire::upnp::igd::{Key, Range, listing_from_xml};
use postern_wire::upnp::soap::Arguments;

use super::super::{Kind, MAX_LEASE};
use super::support::{Bed, EXTERNAL, entry, with};

const HOST: &str = "192.168.1.10";
const OTHER: &str = "192.168.1.11";

fn add(bed: &mut Bed, from: &str, arguments: Arguments) -> Result<(), i32> {
    bed.call(from, 1, "AddPortMapping", arguments).map(|_| ())
}

fn arguments() -> Arguments {
    entry().to_arguments()
}

#[test]
fn a_mapping_is_added_found_and_deleted() {
    let mut bed = Bed::new();
    add(&mut bed, HOST, arguments()).unwrap();
    let key = entry().key.to_arguments();
    let found = bed
        .call(OTHER, 1, "GetSpecificPortMappingEntry", key.clone())
        .unwrap();
    assert_eq!(found, entry().to_specific_answer());
    let index = Arguments::default().with("NewPortMappingIndex", 0);
    let found = bed
        .call(OTHER, 1, "GetGenericPortMappingEntry", index)
        .unwrap();
    assert_eq!(found, entry().to_arguments());
    let index = Arguments::default().with("NewPortMappingIndex", 1);
    let none = bed.call(OTHER, 1, "GetGenericPortMappingEntry", index);
    assert_eq!(none, Err(713));
    assert_eq!(
        bed.call(OTHER, 1, "DeletePortMapping", key.clone()),
        Err(606)
    );
    bed.call(HOST, 1, "DeletePortMapping", key.clone()).unwrap();
    assert_eq!(bed.open(), []);
    assert_eq!(bed.ended_flows.len(), 1);
    assert_eq!(
        bed.call(HOST, 1, "DeletePortMapping", key.clone()),
        Err(714)
    );
    assert_eq!(
        bed.call(HOST, 1, "GetSpecificPortMappingEntry", key),
        Err(714)
    );
}

#[test]
fn the_same_host_replaces_its_mapping_and_another_host_does_not() {
    let mut bed = Bed::new();
    add(&mut bed, HOST, arguments()).unwrap();
    add(
        &mut bed,
        HOST,
        with(&arguments(), "NewInternalPort", "4444"),
    )
    .unwrap();
    assert_eq!(bed.open()[0].1.port(), 4444);
    let theirs = with(&arguments(), "NewInternalClient", OTHER);
    assert_eq!(add(&mut bed, OTHER, theirs), Err(718));
    bed.check();
}

#[test]
fn two_remote_hosts_may_lead_to_two_hosts() {
    let mut bed = Bed::new();
    let from = |host: &str| with(&arguments(), "NewRemoteHost", host);
    add(&mut bed, HOST, from("198.51.100.1")).unwrap();
    let theirs = with(&from("198.51.100.2"), "NewInternalClient", OTHER);
    add(&mut bed, OTHER, theirs).unwrap();
    let same = with(&from("198.51.100.1"), "NewInternalClient", OTHER);
    assert_eq!(add(&mut bed, OTHER, same), Err(718));
    let all = with(&arguments(), "NewInternalClient", OTHER);
    assert_eq!(
        add(&mut bed, OTHER, all),
        Err(718),
        "everybody is also the other one"
    );
    assert_eq!(bed.open().len(), 2);
    bed.check();
}

#[test]
fn a_lease_of_0_has_no_end_in_version_1_and_is_a_week_in_version_2() {
    let mut bed = Bed::new();
    let forever = with(&arguments(), "NewLeaseDuration", "0");
    bed.call(HOST, 1, "AddPortMapping", forever.clone())
        .unwrap();
    let lease = |bed: &mut Bed| {
        let key = entry().key.to_arguments();
        let found = bed
            .call(HOST, 2, "GetSpecificPortMappingEntry", key)
            .unwrap();
        found.get("NewLeaseDuration").unwrap().to_owned()
    };
    assert_eq!(lease(&mut bed), "0");
    bed.call(HOST, 2, "AddPortMapping", forever).unwrap();
    assert_eq!(lease(&mut bed), "604800");
    let long = with(&arguments(), "NewLeaseDuration", "604801");
    assert_eq!(bed.call(HOST, 2, "AddPortMapping", long.clone()), Err(601));
    bed.call(HOST, 1, "AddPortMapping", long).unwrap();
    assert_eq!(lease(&mut bed), "604800");
}

#[test]
fn a_lease_without_an_end_is_renewed_in_the_kernel() {
    let mut bed = Bed::new();
    add(&mut bed, HOST, with(&arguments(), "NewLeaseDuration", "0")).unwrap();
    for _ in 0..10 {
        bed.pass(MAX_LEASE / 4);
        assert_eq!(bed.open().len(), 1);
    }
    bed.check();
}

#[test]
fn any_port_is_given_when_the_one_asked_for_is_taken() {
    let mut bed = Bed::new();
    add(&mut bed, HOST, arguments()).unwrap();
    let theirs = with(&arguments(), "NewInternalClient", OTHER);
    let granted = bed
        .call(OTHER, 2, "AddAnyPortMapping", theirs.clone())
        .unwrap();
    let port: u16 = granted.get("NewReservedPort").unwrap().parse().unwrap();
    assert!(port >= 1024 && port != 4001);
    let again = bed.call(HOST, 2, "AddAnyPortMapping", arguments()).unwrap();
    assert_eq!(again.get("NewReservedPort"), Some("4001"));
    assert_eq!(bed.call(OTHER, 1, "AddAnyPortMapping", theirs), Err(401));
    bed.check();
}

#[test]
fn a_mapping_that_is_not_enabled_is_listed_and_closed() {
    let mut bed = Bed::new();
    let mut closed = entry();
    closed.enabled = false;
    add(&mut bed, HOST, closed.to_arguments()).unwrap();
    assert_eq!(bed.open(), []);
    let key = entry().key.to_arguments();
    let found = bed
        .call(HOST, 1, "GetSpecificPortMappingEntry", key.clone())
        .unwrap();
    assert_eq!(found.get("NewEnabled"), Some("0"));
    add(&mut bed, HOST, arguments()).unwrap();
    assert_eq!(bed.open().len(), 1);
    add(&mut bed, HOST, closed.to_arguments()).unwrap();
    assert_eq!(bed.open(), []);
    bed.call(HOST, 1, "DeletePortMapping", key).unwrap();
    bed.check();
}

#[test]
fn a_range_is_listed_and_deleted() {
    let mut bed = Bed::new();
    for port in 4001..4006 {
        let port = port.to_string();
        add(&mut bed, HOST, with(&arguments(), "NewExternalPort", &port)).unwrap();
    }
    let range = |start, end| Range {
        start,
        end,
        transport: Transport::Tcp,
        manage: false,
    };
    let list = |bed: &mut Bed, from: &str, range: Range| {
        let arguments = range.to_arguments().with("NewNumberOfPorts", 0);
        let listing = bed.call(from, 2, "GetListOfPortMappings", arguments)?;
        let xml = listing.get("NewPortListing").unwrap();
        let entries = listing_from_xml(xml).unwrap();
        Ok(entries
            .iter()
            .map(|entry| entry.key.external_port)
            .collect::<Vec<_>>())
    };
    assert_eq!(
        list(&mut bed, HOST, range(4002, 4004)),
        Ok(vec![4002, 4003, 4004])
    );
    assert_eq!(list(&mut bed, OTHER, range(1, 65_535)), Err(730));
    let backwards = range(4002, 4001).to_arguments();
    assert_eq!(
        bed.call(HOST, 2, "DeletePortMappingRange", backwards),
        Err(733)
    );
    let some = range(4000, 4003).to_arguments();
    assert_eq!(
        bed.call(OTHER, 2, "DeletePortMappingRange", some.clone()),
        Err(730)
    );
    bed.call(HOST, 2, "DeletePortMappingRange", some).unwrap();
    assert_eq!(bed.open().len(), 2);
    bed.check();
}

#[test]
fn what_is_asked_about_the_connection_is_told() {
    let mut bed = Bed::new();
    bed.pass(Duration::from_secs(60));
    let mut told = |action: &str, argument: &str| {
        let answer = bed.call(HOST, 1, action, Arguments::default()).unwrap();
        answer.get(argument).unwrap().to_owned()
    };
    let external = EXTERNAL.to_string();
    assert_eq!(
        told("GetExternalIPAddress", "NewExternalIPAddress"),
        external
    );
    assert_eq!(told("GetStatusInfo", "NewConnectionStatus"), "Connected");
    assert_eq!(told("GetStatusInfo", "NewUptime"), "60");
    assert_eq!(
        told("GetConnectionTypeInfo", "NewConnectionType"),
        "IP_Routed"
    );
    assert_eq!(told("GetNATRSIPStatus", "NewNATEnabled"), "1");
    for (action, result) in [
        ("SetConnectionType", Err(731)),
        ("ForceTermination", Err(606)),
        ("RequestConnection", Ok(Arguments::default())),
    ] {
        let arguments = Arguments::default().with("NewConnectionType", "IP_Routed");
        assert_eq!(bed.call(HOST, 1, action, arguments), result, "{action}");
    }
    bed.gateway.set_external(bed.now, None);
    let told = bed
        .call(HOST, 1, "GetExternalIPAddress", Arguments::default())
        .unwrap();
    assert_eq!(told.get("NewExternalIPAddress"), Some(""));
    assert_eq!(add(&mut bed, HOST, arguments()), Err(501));
}

#[test]
fn the_other_services_answer_what_they_require() {
    let mut bed = Bed::new();
    let urn = |name: &str| format!("urn:schemas-upnp-org:service:{name}:1");
    let common = urn("WANCommonInterfaceConfig");
    for (action, argument, value) in [
        ("GetCommonLinkProperties", "NewPhysicalLinkStatus", "Up"),
        ("GetTotalBytesSent", "NewTotalBytesSent", "0"),
        ("GetTotalBytesReceived", "NewTotalBytesReceived", "0"),
        ("GetTotalPacketsSent", "NewTotalPacketsSent", "0"),
        ("GetTotalPacketsReceived", "NewTotalPacketsReceived", "0"),
    ] {
        let none = Arguments::default();
        let path = "/control/WANCommonIFC1";
        let told = bed.call_at(HOST, path, &common, action, none).unwrap();
        assert_eq!(told.get(argument), Some(value));
    }
    let layer_3 = urn("Layer3Forwarding");
    let none = Arguments::default();
    let action = "GetDefaultConnectionService";
    let told = bed.call_at(HOST, "/control/L3Forwarding1", &layer_3, action, none);
    assert!(
        told.unwrap()
            .get("NewDefaultConnectionService")
            .unwrap()
            .contains("WANIPConn1")
    );
}

#[test]
fn a_mapping_of_another_protocol_is_neither_replaced_nor_deleted() {
    let mut bed = Bed::new();
    let nat_pmp = postern_wire::natpmp::Request::Map(postern_wire::natpmp::Map {
        transport: Transport::Tcp,
        internal_port: 4000,
        external_port: 4001,
        lifetime: 600,
    });
    bed.send(HOST, &nat_pmp.to_bytes());
    assert_eq!(add(&mut bed, HOST, arguments()), Err(718));
    let key = Key::to_arguments(&entry().key);
    assert_eq!(bed.call(HOST, 1, "DeletePortMapping", key), Err(606));
    assert!(matches!(
        bed.kernel.values().next().unwrap().0.lease.kind,
        Kind::Mapping { .. }
    ));
}
