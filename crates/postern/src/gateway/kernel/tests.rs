//! A router between a host inside and the internet, in network namespaces of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use postern_proto::gateway::{self as machine, Config, Filter, LeaseId, Origin};
use postern_wire::transport::Transport;

use super::*;

const MARK: u32 = 0x0100_0000;
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(45, 45, 45, 2);
const PATIENCE: Duration = Duration::from_millis(300);

/// The namespaces of the host inside and of the internet; the test runs on the router.
struct Bed {
    inside: String,
    internet: String,
}

impl Bed {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |what| format!("postern-gw-{}-{number}-{what}", std::process::id());
        let bed = Self {
            inside: name("in"),
            internet: name("net"),
        };
        for name in [&bed.inside, &bed.internet] {
            run("ip", &format!("netns add {name}"));
            run("ip", &format!("-n {name} link set lo up"));
        }
        bed.cable("lan", "192.168.77.1/24", "fd77::1/64", &bed.inside);
        bed.cable("wan", "45.45.45.2/24", "2001:db8:45::2/64", &bed.internet);
        bed.end(&bed.inside, "192.168.77.10/24", "fd77::10/64");
        bed.end(&bed.internet, "45.45.45.1/24", "2001:db8:45::1/64");
        run(
            "ip",
            &format!("-n {} addr add 45.45.45.9/24 dev eth0", bed.internet),
        );
        run(
            "ip",
            &format!("-n {} route add default via 192.168.77.1", bed.inside),
        );
        run(
            "ip",
            &format!("-n {} route add default via fd77::1", bed.inside),
        );
        run(
            "ip",
            &format!("-n {} route add fd77::/64 via 2001:db8:45::2", bed.internet),
        );
        for name in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            run("sysctl", &format!("-qw net.{name}=1"));
        }
        bed
    }

    fn cable(&self, interface: &str, v4: &str, v6: &str, to: &str) {
        run(
            "ip",
            &format!("link add {interface} type veth peer name eth0 netns {to}"),
        );
        run("ip", &format!("addr add {v4} dev {interface}"));
        run("ip", &format!("addr add {v6} dev {interface} nodad"));
        run("ip", &format!("link set {interface} up"));
    }

    fn end(&self, name: &str, v4: &str, v6: &str) {
        run("ip", &format!("-n {name} addr add {v4} dev eth0"));
        run("ip", &format!("-n {name} addr add {v6} dev eth0 nodad"));
        run("ip", &format!("-n {name} link set eth0 up"));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in [&self.inside, &self.internet] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes something in a namespace: a socket stays where it was made.
fn inside<T: Send>(name: &str, make: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            make()
        });
        thread.join().unwrap()
    })
}

/// Runs a test on a router. Where the system allows no namespaces it says so: nothing was
/// tested then.
fn on_router(test: impl FnOnce(&Bed, &mut Kernel) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: needs root to make network namespaces: {error}");
                return;
            }
            let bed = Bed::new();
            let mut kernel = Kernel::open().unwrap();
            kernel.install(&rules()).unwrap();
            test(&bed, &mut kernel);
        });
        thread.join().unwrap();
    });
}

fn rules() -> Rules {
    Rules {
        outside: vec!["wan".to_owned()],
        inside: vec!["lan".to_owned()],
        mark: MARK,
    }
}

const LIFE: Duration = Duration::from_secs(600);

fn lease(transport: Transport, kind: Kind, internal: &str) -> Lease {
    let internal: SocketAddr = internal.parse().unwrap();
    Lease {
        id: LeaseId::default(),
        transport,
        kind,
        internal,
        filters: Vec::new(),
        owner: internal.ip(),
        origin: Origin::Upnp,
        description: String::new(),
        enabled: true,
        expires: Instant::now().checked_add(LIFE),
    }
}

fn opening(lease: Lease) -> Opening {
    Opening {
        lease,
        external: Some(EXTERNAL),
        both_ways: true,
    }
}

fn mapping(transport: Transport, external_port: u16, internal_port: u16) -> Opening {
    let kind = Kind::Mapping { external_port };
    opening(lease(
        transport,
        kind,
        &format!("192.168.77.10:{internal_port}"),
    ))
}

fn from(network: &str, port: Option<u16>) -> Filter {
    Filter {
        network: network.parse().unwrap(),
        port,
    }
}

impl Kernel {
    fn open_up(&mut self, opening: &Opening) {
        let placement = Placement::of(opening);
        self.change(None, Some((&placement, LIFE))).unwrap();
    }

    fn close(&mut self, opening: &Opening) {
        self.change(Some(&Placement::of(opening)), None).unwrap();
    }

    fn found(&mut self) -> Vec<(Transport, Kind, SocketAddr, Vec<Filter>)> {
        let leases = self.leases(Instant::now()).unwrap();
        let what = |lease: Lease| (lease.transport, lease.kind, lease.internal, lease.filters);
        leases.into_iter().map(what).collect()
    }
}

fn described(opening: &Opening) -> (Transport, Kind, SocketAddr, Vec<Filter>) {
    let lease = &opening.lease;
    let filters = lease.filters.clone();
    (lease.transport, lease.kind, lease.internal, filters)
}

/// Whether a connection from an address in a namespace arrives at the listener.
fn arrives(from: &str, source: &str, to: impl Into<SocketAddr>, listener: &TcpListener) -> bool {
    let (source, to): (IpAddr, SocketAddr) = (source.parse().unwrap(), to.into());
    listener.set_nonblocking(true).unwrap();
    let domain = socket2::Domain::for_address(to);
    let connected = inside(from, || {
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        let connected = socket.connect_timeout(&to.into(), PATIENCE);
        connected.map(|()| TcpStream::from(socket))
    });
    let Ok(mut stream) = connected else {
        return false;
    };
    let (mut accepted, _) = listener.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    accepted.set_nonblocking(false).unwrap();
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted.read_exact(&mut heard).is_ok() && &heard == b"hello"
}

fn listen(name: &str, port: u16, v6: bool) -> TcpListener {
    let any: IpAddr = if v6 { [0_u16; 8].into() } else { [0; 4].into() };
    inside(name, || TcpListener::bind((any, port)).unwrap())
}

#[test]
fn a_mapped_port_is_reached_from_outside_and_from_inside() {
    on_router(|bed, kernel| {
        let opening = mapping(Transport::Tcp, 4000, 4001);
        let external = (EXTERNAL, 4000);
        let listener = listen(&bed.inside, 4001, false);
        let outside = || arrives(&bed.internet, "45.45.45.1", external, &listener);
        assert!(!outside());
        kernel.open_up(&opening);
        assert!(outside());
        assert!(arrives(&bed.inside, "192.168.77.10", external, &listener));
        assert_eq!(kernel.found(), [described(&opening)]);
        assert_eq!(kernel.flows_by_lease().unwrap(), [(0, 2)].into());
        assert_eq!(kernel.end_flows(std::slice::from_ref(&opening)).unwrap(), 2);
        kernel.close(&opening);
        assert!(!outside());
        // That it has ended already is no failure.
        kernel.close(&opening);
    });
}

#[test]
fn a_filter_lets_only_its_remote_addresses_in() {
    on_router(|bed, kernel| {
        let external = (EXTERNAL, 4000);
        let listener = listen(&bed.inside, 4001, false);
        let mut before = mapping(Transport::Tcp, 4000, 4001);
        kernel.open_up(&before);
        for filters in [
            vec![from("45.45.45.9", None)],
            vec![from("45.45.45.8/29", None)],
            vec![from("198.51.100.7", None), from("45.45.45.9/32", None)],
        ] {
            let mut opening = before.clone();
            opening.lease.filters = filters;
            let (old, new) = (Placement::of(&before), Placement::of(&opening));
            kernel.change(Some(&old), Some((&new, LIFE))).unwrap();
            let [(.., found)] = &kernel.found()[..] else {
                panic!("not one lease")
            };
            let filters = &opening.lease.filters;
            assert_eq!(found.len(), filters.len());
            assert!(found.iter().all(|filter| filters.contains(filter)));
            let outside = |source| arrives(&bed.internet, source, external, &listener);
            assert!(!outside("45.45.45.1"), "{found:?}");
            assert!(outside("45.45.45.9"), "{found:?}");
            before = opening;
        }
    });
}

#[test]
fn a_filter_may_name_the_remote_port() {
    on_router(|bed, kernel| {
        let mut opening = mapping(Transport::Udp, 4000, 4001);
        opening.lease.filters = vec![from("45.45.45.0/24", Some(3478))];
        kernel.open_up(&opening);
        assert_eq!(kernel.found(), [described(&opening)]);
        let host = inside(&bed.inside, || UdpSocket::bind("0.0.0.0:4001").unwrap());
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        for (port, passes) in [(3479, false), (3478, true)] {
            let remote = inside(&bed.internet, || {
                UdpSocket::bind(("0.0.0.0", port)).unwrap()
            });
            remote.send_to(b"hello", (EXTERNAL, 4000)).unwrap();
            assert_eq!(host.recv_from(&mut [0; 16]).is_ok(), passes, "from {port}");
        }
    });
}

#[test]
fn what_leaves_a_mapped_port_is_seen_from_the_outside_port() {
    on_router(|bed, kernel| {
        masquerade();
        kernel.open_up(&mapping(Transport::Udp, 4000, 4001));
        let seen = seen_from(bed, 4001);
        assert_eq!(seen, SocketAddr::from((EXTERNAL, 4000)));
    });
}

#[test]
fn a_flow_to_one_peer_leaves_from_the_port_that_was_agreed() {
    on_router(|bed, kernel| {
        masquerade();
        let remote = "45.45.45.1:3478".parse().unwrap();
        let kind = Kind::Peer {
            external_port: 4000,
            remote,
        };
        let opening = opening(lease(Transport::Udp, kind, "192.168.77.10:4001"));
        kernel.open_up(&opening);
        assert_eq!(kernel.found(), [described(&opening)]);
        assert_eq!(seen_from(bed, 4001), SocketAddr::from((EXTERNAL, 4000)));
        kernel
            .keep_flows(&opening, Duration::from_secs(7777))
            .unwrap();
        assert_eq!(kernel.end_flows(std::slice::from_ref(&opening)).unwrap(), 1);
    });
}

fn masquerade() {
    run("nft", "add table ip home");
    let chain = "add chain ip home post { type nat hook postrouting priority 100 ; }";
    run("nft", chain);
    run("nft", "add rule ip home post oifname wan masquerade");
}

/// From where a server on the internet sees a datagram of the host inside.
fn seen_from(bed: &Bed, port: u16) -> SocketAddr {
    let host = inside(&bed.inside, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    let server = inside(&bed.internet, || UdpSocket::bind("0.0.0.0:3478").unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    host.send_to(b"hello", "45.45.45.1:3478").unwrap();
    server.recv_from(&mut [0; 16]).unwrap().1
}

#[test]
fn a_pinhole_passes_a_firewall_that_knows_the_mark() {
    on_router(|bed, kernel| {
        drop_what_has_no_mark();
        let listener = listen(&bed.inside, 4001, true);
        let to: SocketAddr = "[fd77::10]:4001".parse().unwrap();
        let source = "2001:db8:45::1";
        let mut opening = opening(lease(Transport::Tcp, Kind::Pinhole, "[fd77::10]:4001"));
        let outside = || arrives(&bed.internet, source, to, &listener);
        assert!(!outside());
        kernel.open_up(&opening);
        // Until the neighbours know each other, packets wait.
        assert!((0..20).any(|_| outside()));
        assert_eq!(kernel.found(), [described(&opening)]);
        kernel.close(&opening);
        assert!(!outside());
        for (network, passes) in [
            ("2001:db8:45::1", true),
            ("2001:db8:45::/64", true),
            ("2001:db8:45::7", false),
            ("2001:db8:46::/64", false),
        ] {
            opening.lease.filters = vec![from(network, None)];
            kernel.open_up(&opening);
            assert_eq!(outside(), passes, "{network}");
            assert_eq!(kernel.found(), [described(&opening)]);
            kernel.close(&opening);
        }
    });
}

fn drop_what_has_no_mark() {
    let firewall = format!(
        "table inet fw {{\n chain f {{\n type filter hook forward priority 0; policy drop;\n \
         ct state established,related accept\n meta mark & {MARK:#x} == {MARK:#x} accept\n }}\n}}\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), firewall).unwrap();
    run("nft", &format!("-f {}", file.path().display()));
}

#[test]
fn a_flush_by_somebody_else_is_noticed() {
    on_router(|_, kernel| {
        kernel.open_up(&mapping(Transport::Udp, 4000, 4001));
        assert!(!kernel.was_disturbed().unwrap());
        run("nft", "flush ruleset");
        assert!(kernel.was_disturbed().unwrap());
        assert!(kernel.leases(Instant::now()).is_err());
        kernel.install(&rules()).unwrap();
        assert!(!kernel.was_disturbed().unwrap());
        assert_eq!(kernel.found(), []);
    });
}

#[test]
fn ten_thousand_mappings_are_restored_and_read_back() {
    on_router(|_, kernel| {
        let now = Instant::now();
        let config = Config {
            inside: vec!["192.168.77.0/24".parse().unwrap()],
            external: Some(EXTERNAL),
            ..Config::default()
        };
        let mut gateway = machine::Gateway::new(now, [7; 32], config);
        for port in 1024..11_024 {
            let mapping = mapping(Transport::Udp, port, port);
            assert!(gateway.restore(now, mapping.lease));
        }
        let openings = gateway.openings(now);
        let placed = openings.map(|(opening, life)| (Placement::of(&opening), life));
        kernel.restore(placed).unwrap();
        let kept = |lease: &Lease| (lease.transport, lease.kind, lease.internal);
        let all: Vec<_> = gateway.leases().map(kept).collect();
        let found: Vec<_> = kernel.leases(now).unwrap().iter().map(kept).collect();
        assert_eq!(found, all);
        assert!(!kernel.was_disturbed().unwrap(), "by ourselves");
    });
}

#[test]
fn a_prefix_too_many_is_refused_and_changes_nothing() {
    on_router(|_, kernel| {
        let filtered = |port| {
            let mut opening = mapping(Transport::Udp, port, port);
            opening.both_ways = false;
            opening.lease.filters = vec![from("45.45.45.8/29", None)];
            Placement::of(&opening)
        };
        let placed = (2000..2512).map(|port| (filtered(port), LIFE));
        kernel.restore(placed).unwrap();
        let refused = kernel.change(None, Some((&filtered(2512), LIFE)));
        assert!(is_full(&refused.unwrap_err()));
    });
}

#[test]
fn the_rules_are_shown_as_nft_lists_them() {
    on_router(|_, _| {
        let listed = run("nft", "list table inet postern");
        let shown = rules().describe();
        assert!(listed.contains("elements = { \"wan\""), "{listed}");
        for line in shown.lines().map(str::trim) {
            assert!(listed.contains(line), "{line} is not in\n{listed}");
        }
    });
}
