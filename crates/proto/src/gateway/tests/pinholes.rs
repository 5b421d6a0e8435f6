//! WANIPv6FirewallControl.

use std::time::Duration;

use postern_wire::transport::Transport;
use postern_wire::upnp::igd::Pinhole;
use postern_wire::upnp::soap::Arguments;

use super::super::{Filter, Kind, Lease, LeaseId, Origin};
use super::support::{Bed, with};

const HOST: &str = "fd00::10";
const OTHER: &str = "fd00::11";
const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1";

fn pinhole() -> Arguments {
    let pinhole = Pinhole {
        remote_host: String::new(),
        remote_port: 0,
        internal_client: HOST.to_owned(),
        internal_port: 4000,
        protocol: 6,
        lease: 600,
    };
    pinhole.to_arguments()
}

fn call(bed: &mut Bed, from: &str, action: &str, arguments: Arguments) -> Result<Arguments, i32> {
    bed.call_at(from, "/control/WANIPv6FC1", SERVICE, action, arguments)
}

fn add(bed: &mut Bed, arguments: Arguments) -> Result<u16, i32> {
    let answer = call(bed, HOST, "AddPinhole", arguments)?;
    Ok(answer.get("UniqueID").unwrap().parse().unwrap())
}

fn id(id: u16) -> Arguments {
    Arguments::default().with("UniqueID", id)
}

#[test]
fn a_pinhole_is_opened_prolonged_counted_and_closed() {
    let mut bed = Bed::new();
    let first = add(&mut bed, pinhole()).unwrap();
    assert_eq!(bed.open()[0].1, "[fd00::10]:4000".parse().unwrap());
    assert_eq!(add(&mut bed, pinhole()), Ok(first), "the same one again");
    let second = add(&mut bed, with(&pinhole(), "InternalPort", "4001")).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        call(&mut bed, HOST, "CheckPinholeWorking", id(first)),
        Err(709)
    );
    bed.packets = 7;
    let counted = call(&mut bed, HOST, "GetPinholePackets", id(first)).unwrap();
    assert_eq!(counted.get("PinholePackets"), Some("7"));
    let works = call(&mut bed, HOST, "CheckPinholeWorking", id(first)).unwrap();
    assert_eq!(works.get("IsWorking"), Some("1"));
    let longer = id(first).with("NewLeaseTime", 6000);
    assert_eq!(
        call(&mut bed, OTHER, "UpdatePinhole", longer.clone()),
        Err(606)
    );
    call(&mut bed, HOST, "UpdatePinhole", longer).unwrap();
    bed.pass(Duration::from_secs(600));
    assert_eq!(bed.open().len(), 1, "the other one has ended");
    assert_eq!(call(&mut bed, HOST, "DeletePinhole", id(second)), Err(704));
    assert_eq!(call(&mut bed, OTHER, "DeletePinhole", id(first)), Err(606));
    call(&mut bed, HOST, "DeletePinhole", id(first)).unwrap();
    assert_eq!(bed.open(), []);
    assert_eq!(call(&mut bed, HOST, "DeletePinhole", id(first)), Err(704));
    bed.check();
}

#[test]
fn pinholes_that_are_wrong_are_refused_with_their_code() {
    let mut bed = Bed::new();
    for (name, value, code) in [
        ("InternalClient", OTHER, 606),
        ("InternalClient", "fd01::10", 606),
        ("InternalClient", "", 708),
        ("InternalClient", "192.168.1.10", 402),
        ("InternalPort", "0", 706),
        ("InternalPort", "22", 606),
        ("Protocol", "65535", 707),
        ("Protocol", "132", 705),
        ("LeaseTime", "0", 402),
        ("LeaseTime", "86401", 402),
        ("RemoteHost", "a.host.example", 402),
    ] {
        let wrong = with(&pinhole(), name, value);
        assert_eq!(add(&mut bed, wrong), Err(code), "{name}={value}");
    }
    assert_eq!(bed.gateway.leases().count(), 0);
}

#[test]
fn a_remote_host_and_port_are_a_filter() {
    let mut bed = Bed::new();
    let from = with(&pinhole(), "RemoteHost", "2001:db8::1");
    add(&mut bed, with(&from, "RemotePort", "443")).unwrap();
    let filters = &bed.kernel.values().next().unwrap().0.lease.filters;
    assert_eq!(filters.len(), 1);
    assert_eq!(filters[0].port, Some(443));
    assert_eq!(filters[0].network.prefix_length(), 128);
}

#[test]
fn the_firewall_says_that_it_is_on() {
    let mut bed = Bed::new();
    let status = call(&mut bed, HOST, "GetFirewallStatus", Arguments::default()).unwrap();
    assert_eq!(status.get("FirewallEnabled"), Some("1"));
    assert_eq!(status.get("InboundPinholeAllowed"), Some("1"));
}

#[test]
fn a_pinhole_that_the_kernel_tells_in_another_order_is_the_same() {
    let mut bed = Bed::new();
    let filter = |network: &str| Filter {
        network: network.parse().unwrap(),
        port: None,
    };
    let mut lease = Lease {
        id: LeaseId::default(),
        transport: Transport::Tcp,
        kind: Kind::Pinhole,
        internal: "[fd00::10]:4000".parse().unwrap(),
        filters: vec![filter("2001:db8::1"), filter("2001:db8::2")],
        owner: "fd00::10".parse().unwrap(),
        origin: Origin::NatPmp,
        description: "from the file".to_owned(),
        enabled: true,
        expires: None,
    };
    assert!(bed.gateway.restore(bed.now, lease.clone()));
    lease.filters.reverse();
    assert!(!bed.gateway.restore(bed.now, lease.clone()));
    lease.filters.pop();
    assert!(bed.gateway.restore(bed.now, lease));
}
