//! Where a case plays: a house with two hosts behind a router that runs the gateway, and a
//! server on the internet.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::netns::{Home, Ipv6, Program, Server, Topology, World};
use postern_lab::sim::Nat;
use postern_wire::pcp::{self, Map, Nonce, Operation, Options};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

/// The router, outside and inside.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(45, 45, 2, 2);
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The hosts inside.
pub(crate) const ALICE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// The two addresses of the server.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(45, 45, 1, 2);
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(45, 45, 1, 3);
/// What spares `upnpc` two seconds of looking for a gateway.
pub(crate) const URL: &str = "-u http://192.168.1.1:5000/rootDesc.xml";
/// The router and Alice over IPv6.
pub(crate) const ROUTER6: &str = "2a45:45:2:1::1";
pub(crate) const ALICE6: &str = "2a45:45:2:1::a";

/// Longer than anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// So long a datagram or a connection is waited for that is not to come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Lets in over IPv6 what the gateway has marked, as docs/gateway.md says.
const KNOW_THE_MARK: &str =
    "insert rule ip6 firewall forw meta mark & 0x01000000 == 0x01000000 accept\n";

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Tcp,
    Udp,
}

pub(crate) use Over::{Tcp, Udp};

/// The house. Its gateway is dropped first: it lives in the world.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) gateway: Option<Program>,
    pub(crate) world: World,
    directory: TempDir,
}

impl House {
    /// A house whose gateway is ready.
    pub(crate) fn new() -> Self {
        let mut house = Self::without_gateway();
        house.start(&[]);
        house
    }

    pub(crate) fn without_gateway() -> Self {
        let mut home = Home::new("router", &["alice", "carol"], 1, Nat::default());
        home.ipv6 = Ipv6::Firewalled;
        let mut server = Server::new("server");
        server.addresses = 2;
        let topology = Topology {
            servers: vec![server],
            homes: vec![home],
            ..Topology::default()
        };
        let world = World::build(&topology).unwrap();
        world.nft("router", KNOW_THE_MARK).unwrap();
        Self {
            gateway: None,
            world,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts the gateway with these arguments as well; what it says when it is ready.
    pub(crate) fn start(&mut self, more: &[&str]) -> Value {
        self.start_under(&[], more)
    }

    /// The same as an argument of other programs.
    pub(crate) fn start_under(&mut self, before: &[&str], more: &[&str]) -> Value {
        let words = [before, &[POSTERN, "gateway"]].concat();
        let mut command = self.world.command("router", words[0]).unwrap();
        command.args(&words[1..]).env_remove("POSTERN_LOG");
        command.args(["--wan", "wan", "--lan", "lan", "--json"]);
        command.arg("--state").arg(self.directory.path());
        command.arg("--socket").arg(self.socket());
        command.args(more);
        let mut gateway = Program::start(command).unwrap();
        let Some(ready) = gateway.event("ready", LIMIT) else {
            panic!("not ready: {}", gateway.complaints())
        };
        self.gateway = Some(gateway);
        ready
    }

    /// Ends the gateway with a signal, and waits for its end.
    pub(crate) fn stop(&mut self, signal: Signal) {
        let mut gateway = self.gateway.take().unwrap();
        kill(Pid::from_raw(gateway.id().try_into().unwrap()), signal).unwrap();
        let ended = gateway.end(LIMIT).unwrap();
        assert!(ended.is_some(), "it does not end: {}", gateway.complaints());
    }

    /// The command `postern gateway` on the router.
    pub(crate) fn postern(&self) -> Command {
        let mut command = self.world.command("router", POSTERN).unwrap();
        command.arg("gateway").env_remove("POSTERN_LOG");
        command
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("gateway.sock")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Asks the running gateway, for people.
    pub(crate) fn ask(&self, words: &[&str]) -> Output {
        let mut command = self.postern();
        command.args(words).arg("--socket").arg(self.socket());
        command.output().unwrap()
    }

    /// Asks the running gateway; the objects that it answers with.
    pub(crate) fn ask_json(&self, words: &[&str]) -> Vec<Value> {
        let output = self.ask(&[words, &["--json"]].concat());
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs a program on a node; what it printed. It has to succeed.
    pub(crate) fn run(&self, node: &str, program: &str, arguments: &str) -> String {
        let (succeeded, text) = self.try_run(node, program, arguments);
        assert!(succeeded, "{program} {arguments}:\n{text}");
        text
    }

    pub(crate) fn try_run(&self, node: &str, program: &str, arguments: &str) -> (bool, String) {
        let mut command = self.world.command(node, program).unwrap();
        command.args(arguments.split_whitespace());
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let printed = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&printed).into_owned();
        (output.status.success(), text)
    }

    /// One PCP request of Alice over IPv4, and its answer.
    pub(crate) fn pcp(&self, map: Map, lifetime: u32, options: Options) -> pcp::Response {
        self.ask_pcp(ALICE.into(), ROUTER.into(), map, lifetime, options)
    }

    /// The same from and to these addresses.
    pub(crate) fn ask_pcp(
        &self,
        client: IpAddr,
        to: IpAddr,
        map: Map,
        lifetime: u32,
        options: Options,
    ) -> pcp::Response {
        let request = pcp::Request {
            lifetime,
            client,
            operation: Operation::Map(map),
            options,
        };
        let socket = self.world.udp("alice", (client, 0).into()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let to = SocketAddr::new(to, pcp::GATEWAY_PORT);
        socket.send_to(&request.to_bytes(), to).unwrap();
        let mut buffer = [0; pcp::MAX_LEN];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, to);
        pcp::Response::parse(&buffer[..length]).unwrap()
    }

    /// Whether something that a node sends from an address to `to` arrives at Alice's port,
    /// and her answer comes back from where it was sent to.
    pub(crate) fn reaches(
        &self,
        over: Over,
        (node, source): (&str, IpAddr),
        to: SocketAddr,
        port: u16,
    ) -> bool {
        let any: IpAddr = if to.is_ipv6() {
            [0_u16; 8].into()
        } else {
            [0_u8; 4].into()
        };
        let at = SocketAddr::new(any, port);
        match over {
            Tcp => {
                let listener = self.world.run("alice", || TcpListener::bind(at).unwrap());
                let listener = listener.unwrap();
                let connect = || connect(source, to);
                let Ok(stream) = self.world.run(node, connect).unwrap() else {
                    return false;
                };
                listener.set_nonblocking(true).unwrap();
                // Somebody else answers at this port.
                let Ok((accepted, _)) = listener.accept() else {
                    return false;
                };
                accepted.set_nonblocking(false).unwrap();
                talk(accepted, stream);
                true
            }
            Udp => {
                let host = self.world.udp("alice", at).unwrap();
                let remote = self.world.udp(node, (source, 0).into()).unwrap();
                echo(&host, &remote, to)
            }
        }
    }

    /// The same soon: until neighbours know each other, packets wait, or are lost.
    pub(crate) fn reaches_soon(
        &self,
        over: Over,
        from: (&str, IpAddr),
        to: SocketAddr,
        port: u16,
    ) -> bool {
        (0..5).any(|_| self.reaches(over, from, to, port))
    }

    /// What arrives at a mapped port of Alice from the server, from the second address of
    /// the server, and from inside.
    pub(crate) fn reached_from(&self, over: Over, outside: u16, port: u16) -> [bool; 3] {
        let to = SocketAddr::from((OUTSIDE, outside));
        let carol = Ipv4Addr::new(192, 168, 1, 11);
        [("server", SERVER), ("server", SECOND), ("carol", carol)]
            .map(|(node, source)| self.reaches(over, (node, source.into()), to, port))
    }
}

/// From everywhere, and from nowhere.
pub(crate) const EVERYWHERE: [bool; 3] = [true; 3];
pub(crate) const NOWHERE: [bool; 3] = [false; 3];

/// A mapping of PCP.
pub(crate) fn map(over: Over, internal_port: u16, external_port: u16) -> Map {
    Map {
        nonce: Nonce([7; 12]),
        protocol: match over {
            Tcp => 6,
            Udp => 17,
        },
        internal_port,
        external_port,
        external_address: Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(),
    }
}

pub(crate) fn connect(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use nix::sys::socket;
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let family = match source {
        IpAddr::V4(_) => socket::AddressFamily::Inet,
        IpAddr::V6(_) => socket::AddressFamily::Inet6,
    };
    let flags = socket::SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, socket::SockType::Stream, flags, None)?;
    let own: socket::SockaddrStorage = SocketAddr::new(source, 0).into();
    socket::bind(socket.as_raw_fd(), &own)?;
    let to: socket::SockaddrStorage = to.into();
    match socket::connect(socket.as_raw_fd(), &to) {
        Ok(()) | Err(nix::errno::Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    let mut waits = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    let patience = PollTimeout::try_from(SILENCE).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    if poll(&mut waits, patience)? == 0 {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Bytes cross both ways.
fn talk(mut host: TcpStream, mut remote: TcpStream) {
    let mut heard = [0; 5];
    for stream in [&host, &remote] {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
    remote.write_all(b"hello").unwrap();
    host.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    host.write_all(b"howdy").unwrap();
    remote.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"howdy");
}

fn echo(host: &UdpSocket, remote: &UdpSocket, to: SocketAddr) -> bool {
    let mut heard = [0; 16];
    for socket in [host, remote] {
        socket.set_read_timeout(Some(SILENCE)).unwrap();
    }
    remote.send_to(b"hello", to).unwrap();
    let Ok((5, from)) = host.recv_from(&mut heard) else {
        return false;
    };
    host.send_to(b"howdy", from).unwrap();
    let (length, from) = remote.recv_from(&mut heard).unwrap();
    assert_eq!((&heard[..length], from), (&b"howdy"[..], to));
    true
}
