//! What clients of others, and plain messages, open, and who reaches it.

use std::net::{IpAddr, SocketAddr};

use postern_lab::netns::Case;
use postern_wire::pcp::{Filter, Operation, Options, ResultCode};

use crate::house::{
    ALICE, ALICE6, EVERYWHERE, House, NOWHERE, OUTSIDE, ROUTER6, SERVER, Tcp, URL, Udp, map,
};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    upnpc_finds_the_gateway_and_its_mappings_lead_in_from_everywhere,
    upnpc_is_told_which_port_is_free,
    natpmpc_maps_and_its_mappings_lead_in_from_everywhere,
    pcp_maps_and_its_mappings_lead_in_from_everywhere,
    only_whom_a_filter_names_gets_in,
    pinholes_of_upnpc_let_ipv6_in,
    pinholes_of_pcp_let_ipv6_in,
    a_host_takes_nothing_from_another_one,
];

fn upnpc_finds_the_gateway_and_its_mappings_lead_in_from_everywhere() {
    let house = House::new();
    for (over, name) in [(Tcp, "tcp"), (Udp, "udp")] {
        assert_eq!(house.reached_from(over, 4001, 4000), NOWHERE);
        let add = format!("-m eth0 -e game -a {ALICE} 4000 4001 {name} 600");
        let said = house.run("alice", "upnpc", &add);
        assert!(said.contains(&format!("external {OUTSIDE}:4001")), "{said}");
        assert_eq!(house.reached_from(over, 4001, 4000), EVERYWHERE, "{name}");
    }
    let listed = house.run("alice", "upnpc", "-m eth0 -l");
    for entry in [
        format!("TCP  4001->{ALICE}:4000  'game'"),
        format!("UDP  4001->{ALICE}:4000  'game'"),
        format!("ExternalIPAddress = {OUTSIDE}"),
    ] {
        assert!(listed.contains(&entry), "{entry} is not in\n{listed}");
    }
    for (over, name) in [(Tcp, "tcp"), (Udp, "udp")] {
        house.run("alice", "upnpc", &format!("{URL} -d 4001 {name}"));
        assert_eq!(house.reached_from(over, 4001, 4000), NOWHERE, "{name}");
    }
}

fn upnpc_is_told_which_port_is_free() {
    let house = House::new();
    let taken = "-a 192.168.1.11 5000 4001 udp 600";
    house.run("carol", "upnpc", &format!("{URL} {taken}"));
    let said = house.run("alice", "upnpc", &format!("{URL} -n @ 4000 4001 udp 600"));
    let granted: Vec<_> = house.ask_json(&["list"]);
    let port = granted[1]["external_port"].as_u64().unwrap();
    assert_ne!(port, 4001);
    assert!(said.contains(&format!("{OUTSIDE}:{port} UDP")), "{said}");
    let port = port.try_into().unwrap();
    assert_eq!(house.reached_from(Udp, port, 4000), EVERYWHERE);
}

fn natpmpc_maps_and_its_mappings_lead_in_from_everywhere() {
    let house = House::new();
    let said = house.run("alice", "natpmpc", "-g 192.168.1.1");
    assert!(
        said.contains(&format!("Public IP address : {OUTSIDE}")),
        "{said}"
    );
    for (over, name) in [(Tcp, "tcp"), (Udp, "udp")] {
        let add = format!("-g 192.168.1.1 -a 4001 4000 {name} 600");
        let said = house.run("alice", "natpmpc", &add);
        assert!(said.contains("Mapped public port 4001"), "{said}");
        assert_eq!(house.reached_from(over, 4001, 4000), EVERYWHERE, "{name}");
        let remove = format!("-g 192.168.1.1 -a 4001 4000 {name} 0");
        house.run("alice", "natpmpc", &remove);
        assert_eq!(house.reached_from(over, 4001, 4000), NOWHERE, "{name}");
    }
}

fn pcp_maps_and_its_mappings_lead_in_from_everywhere() {
    let house = House::new();
    for over in [Tcp, Udp] {
        let granted = house.pcp(map(over, 4000, 4001), 600, Options::default());
        assert_eq!(
            (granted.result, granted.lifetime),
            (ResultCode::SUCCESS, 600)
        );
        let Some(Operation::Map(granted)) = granted.operation else {
            panic!("{granted:?}")
        };
        assert_eq!(granted.external_port, 4001);
        assert_eq!(granted.external_address, IpAddr::from(OUTSIDE));
        assert_eq!(house.reached_from(over, 4001, 4000), EVERYWHERE);
        let ended = house.pcp(map(over, 4000, 0), 0, Options::default());
        assert_eq!(ended.result, ResultCode::SUCCESS);
        assert_eq!(house.reached_from(over, 4001, 4000), NOWHERE);
    }
}

fn only_whom_a_filter_names_gets_in() {
    let house = House::new();
    let options = Options {
        filters: vec![Filter {
            prefix_length: 128,
            remote_port: 0,
            remote_address: SERVER.into(),
        }],
        ..Options::default()
    };
    let granted = house.pcp(map(Udp, 4000, 4001), 600, options);
    assert_eq!(granted.result, ResultCode::SUCCESS);
    assert_eq!(house.reached_from(Udp, 4001, 4000), [true, false, false]);
    let from_one = format!("{URL} -a {ALICE} 4000 4002 tcp 600 {SERVER}");
    house.run("alice", "upnpc", &from_one);
    assert_eq!(house.reached_from(Tcp, 4002, 4000), [true, false, false]);
}

fn pinholes_of_upnpc_let_ipv6_in() {
    let house = House::new();
    let to: SocketAddr = format!("[{ALICE6}]:4000").parse().unwrap();
    let server = ("server", house.world.addresses("server").unwrap()[2]);
    assert!(!house.reaches(Tcp, server, to, 4000));
    let url = format!("-6 -u http://[{ROUTER6}]:5000/rootDesc.xml");
    let add = format!("{url} -A :: 0 {ALICE6} 4000 tcp 600");
    let said = house.run("alice", "upnpc", &add);
    let listed = house.ask_json(&["list"]);
    assert_eq!(listed[0]["internal_address"], ALICE6, "{said}");
    assert!(house.reaches_soon(Tcp, server, to, 4000));
    assert!(!house.reaches(Udp, server, to, 4000));
}

fn pinholes_of_pcp_let_ipv6_in() {
    let house = House::new();
    let to: SocketAddr = format!("[{ALICE6}]:4000").parse().unwrap();
    let server = ("server", house.world.addresses("server").unwrap()[2]);
    let (alice, router) = (to.ip(), ROUTER6.parse().unwrap());
    for over in [Tcp, Udp] {
        assert!(!house.reaches(over, server, to, 4000));
        let mut map = map(over, 4000, 4000);
        map.external_address = [0_u16; 8].into();
        let ask = |lifetime| house.ask_pcp(alice, router, map, lifetime, Options::default());
        let granted = ask(600);
        assert_eq!(granted.result, ResultCode::SUCCESS);
        let Some(Operation::Map(opened)) = granted.operation else {
            panic!("{granted:?}")
        };
        assert_eq!(
            (opened.external_address, opened.external_port),
            (alice, 4000)
        );
        assert!(house.reaches_soon(over, server, to, 4000));
        assert_eq!(ask(0).result, ResultCode::SUCCESS);
        assert!(!house.reaches(over, server, to, 4000));
    }
}

fn a_host_takes_nothing_from_another_one() {
    let house = House::new();
    let add = format!("{URL} -a {ALICE} 4000 4001 tcp 600");
    house.run("alice", "upnpc", &add);
    // For another host, its port, and the end of its mapping.
    for (words, code) in [
        ("-a 192.168.1.10 4000 4002 tcp 600", "606"),
        ("-a 192.168.1.11 4000 4001 tcp 600", "718"),
        ("-d 4001 tcp", "606"),
    ] {
        let (_, said) = house.try_run("carol", "upnpc", &format!("{URL} {words}"));
        assert!(said.contains(code), "{words}: {said}");
    }
    assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE);
    assert_eq!(house.ask_json(&["list"]).len(), 1);
}
