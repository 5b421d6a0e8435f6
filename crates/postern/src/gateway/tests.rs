//! A router between a host inside and the internet, in network namespaces of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use super::*;

const MARK: u32 = 0x0100_0000;
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

fn mapping(protocol: Protocol, external: u16, internal: u16) -> Mapping {
    Mapping {
        protocol,
        external: SocketAddrV4::new([45, 45, 45, 2].into(), external),
        internal: SocketAddrV4::new([192, 168, 77, 10].into(), internal),
        remote: Outside::Anybody,
        both_ways: true,
        note: b"7".to_vec(),
    }
}

const LEASE: Option<Duration> = Some(Duration::from_secs(600));

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
        let mapping = mapping(Protocol::Tcp, 4000, 4001);
        let listener = listen(&bed.inside, 4001, false);
        assert!(!arrives(
            &bed.internet,
            "45.45.45.1",
            mapping.external,
            &listener
        ));
        kernel.map(None, &mapping, LEASE).unwrap();
        assert!(arrives(
            &bed.internet,
            "45.45.45.1",
            mapping.external,
            &listener
        ));
        assert!(arrives(
            &bed.inside,
            "192.168.77.10",
            mapping.external,
            &listener
        ));
        let found = kernel.mappings().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, mapping);
        assert_eq!(found[0].flows, 2);
        assert_eq!(kernel.end_flows(&mapping).unwrap(), 2);
        kernel.unmap(&mapping).unwrap();
        assert!(!arrives(
            &bed.internet,
            "45.45.45.1",
            mapping.external,
            &listener
        ));
        assert!(kernel.unmap(&mapping).is_err());
    });
}

#[test]
fn a_filter_lets_only_its_remote_addresses_in() {
    on_router(|bed, kernel| {
        let listener = listen(&bed.inside, 4001, false);
        let mut mapping = mapping(Protocol::Tcp, 4000, 4001);
        mapping.remote = Outside::Host([45, 45, 45, 9].into());
        kernel.map(None, &mapping, LEASE).unwrap();
        assert_eq!(kernel.mappings().unwrap()[0].what, mapping);
        assert!(!arrives(
            &bed.internet,
            "45.45.45.1",
            mapping.external,
            &listener
        ));
        assert!(arrives(
            &bed.internet,
            "45.45.45.9",
            mapping.external,
            &listener
        ));
        let mut ranged = mapping.clone();
        ranged.remote = Outside::Range([45, 45, 45, 8].into(), [45, 45, 45, 15].into());
        kernel.map(Some(&mapping), &ranged, LEASE).unwrap();
        assert_eq!(kernel.mappings().unwrap()[0].what, ranged);
        assert!(!arrives(
            &bed.internet,
            "45.45.45.1",
            mapping.external,
            &listener
        ));
        assert!(arrives(
            &bed.internet,
            "45.45.45.9",
            mapping.external,
            &listener
        ));
    });
}

#[test]
fn what_leaves_a_mapped_port_is_seen_from_the_outside_port() {
    on_router(|bed, kernel| {
        run("nft", "add table ip home");
        run(
            "nft",
            "add chain ip home post { type nat hook postrouting priority 100 ; }",
        );
        run("nft", "add rule ip home post oifname wan masquerade");
        let mapping = mapping(Protocol::Udp, 4000, 4001);
        kernel.map(None, &mapping, LEASE).unwrap();
        let host = inside(&bed.inside, || UdpSocket::bind("0.0.0.0:4001").unwrap());
        let server = inside(&bed.internet, || UdpSocket::bind("0.0.0.0:3478").unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        host.send_to(b"hello", "45.45.45.1:3478").unwrap();
        let (_, seen) = server.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(seen, SocketAddr::V4(mapping.external));
    });
}

#[test]
fn a_pinhole_passes_a_firewall_that_knows_the_mark() {
    on_router(|bed, kernel| {
        let firewall = format!(
            "table inet fw {{\n chain f {{\n type filter hook forward priority 0; policy drop;\n \
             ct state established,related accept\n meta mark & {MARK:#x} == {MARK:#x} accept\n }}\n}}\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), firewall).unwrap();
        run("nft", &format!("-f {}", file.path().display()));
        let listener = listen(&bed.inside, 4001, true);
        let to: SocketAddr = "[fd77::10]:4001".parse().unwrap();
        let SocketAddr::V6(internal) = to else {
            panic!()
        };
        let source = "2001:db8:45::1";
        let mut pinhole = Pinhole {
            protocol: Protocol::Tcp,
            internal,
            remote: Outside::Anybody,
            remote_port: None,
            note: Vec::new(),
        };
        assert!(!arrives(&bed.internet, source, to, &listener));
        kernel.open_pinhole(None, &pinhole, LEASE).unwrap();
        // Until the neighbours know each other, packets wait.
        let mut tries = (0..20).map(|_| arrives(&bed.internet, source, to, &listener));
        assert!(tries.any(|arrived| arrived));
        kernel.close_pinhole(&pinhole).unwrap();
        assert!(!arrives(&bed.internet, source, to, &listener));
        for remote in [
            Outside::Host("2001:db8:45::1".parse().unwrap()),
            Outside::Range(
                "2001:db8:45::".parse().unwrap(),
                "2001:db8:45::f".parse().unwrap(),
            ),
        ] {
            pinhole.remote = remote;
            kernel.open_pinhole(None, &pinhole, LEASE).unwrap();
            assert!(arrives(&bed.internet, source, to, &listener), "{remote:?}");
            kernel.close_pinhole(&pinhole).unwrap();
        }
        pinhole.remote = Outside::Host("2001:db8:45::7".parse().unwrap());
        kernel.open_pinhole(None, &pinhole, LEASE).unwrap();
        assert!(!arrives(&bed.internet, source, to, &listener));
    });
}

#[test]
fn a_flush_by_somebody_else_is_noticed() {
    on_router(|_, kernel| {
        kernel
            .map(None, &mapping(Protocol::Udp, 1, 1), LEASE)
            .unwrap();
        assert!(!kernel.was_disturbed().unwrap());
        run("nft", "flush ruleset");
        assert!(kernel.was_disturbed().unwrap());
        assert!(kernel.mappings().is_err());
        kernel.install(&rules()).unwrap();
        assert!(!kernel.was_disturbed().unwrap());
        assert_eq!(kernel.mappings().unwrap(), []);
    });
}

#[test]
fn ten_thousand_mappings_are_restored_and_read_back() {
    on_router(|_, kernel| {
        let all: Vec<_> = (1024..11_024)
            .map(|port| mapping(Protocol::Udp, port, port))
            .collect();
        kernel
            .restore(all.iter().map(|mapping| (mapping, LEASE)))
            .unwrap();
        let mut found: Vec<_> = kernel
            .mappings()
            .unwrap()
            .into_iter()
            .map(|m| m.what)
            .collect();
        found.sort_by_key(|mapping| mapping.external.port());
        assert_eq!(found, all);
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
