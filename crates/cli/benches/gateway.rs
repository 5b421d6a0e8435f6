//! What a gateway's work takes: `postern gateway` and miniupnpd in turn, each on a router in
//! network namespaces of its own, asked by one host inside.
//!
//! `make bench-gateway` prints the table and writes `target/bench/gateway.json`; `ROUNDS=1`
//! makes it shorter. It measures the program that routers get, built without the lab, which
//! the variable `POSTERN` names. miniupnpd is left out where it is not installed, and its rows with
//! 10,000 mappings always: its time for each grows with their number, and it does not get
//! there in reasonable time. It is measured at 1,000 instead.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return postern_bench::report::say("skipped: it runs with `make bench-gateway`\n");
    }
    bench::run()
}

#[cfg(target_os = "linux")]
mod bench {
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, bail, ensure};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use postern_bench::options::{rounds, variable};
    use postern_bench::report::{Goal, Report, Row, quantile, say};
    use postern_lab::netns::{Home, Program, Server, Topology, World, enter, miniupnpd};
    use postern_lab::sim::Nat;
    use tempfile::TempDir;

    const POSTERN: &str = env!("CARGO_BIN_EXE_postern");

    const ALICE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(45, 45, 2, 2);
    const UPNP: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1)), 5000);

    /// Everything that is waited for comes sooner.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// Mappings have outside ports from here up.
    const FIRST_PORT: u16 = 30_000;
    /// So many calls, or flows, are timed at once.
    const TIMED: u16 = 1000;
    const MANY: u16 = 10_000;
    const LAST_PORT: u16 = FIRST_PORT + MANY;
    /// The same for miniupnpd, whose calls take longer the more mappings there are.
    const SLOW: u16 = 300;

    /// Who is measured.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Daemon {
        Postern,
        Miniupnpd,
    }

    impl Daemon {
        /// Where its WANIPConnection is.
        const fn path(self) -> &'static str {
            match self {
                Self::Postern => "/control/WANIPConn1",
                Self::Miniupnpd => "/ctl/IPConn",
            }
        }
    }

    /// A process that is ended when this is dropped.
    enum Running {
        Child(Program),
        /// It has left its parent, as daemons do.
        Orphan(Pid),
    }

    impl Running {
        fn id(&self) -> u32 {
            match self {
                Self::Child(program) => program.id(),
                Self::Orphan(id) => id.as_raw().unsigned_abs(),
            }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            if let Self::Orphan(id) = self {
                let _ = kill(*id, Signal::SIGKILL);
            }
        }
    }

    /// The mapping that was made last, which is restored last, too.
    struct LastMapping {
        host: UdpSocket,
        remote: UdpSocket,
    }

    impl LastMapping {
        /// Whether something has come in by it.
        fn leads_in(&self) -> Result<bool> {
            self.remote.send_to(b"hello", (OUTSIDE, LAST_PORT))?;
            Ok(self.host.recv_from(&mut [0; 8]).is_ok())
        }
    }

    /// A daemon on its router.
    struct Bed {
        daemon: Daemon,
        program: Option<Running>,
        world: World,
        directory: TempDir,
    }

    impl Bed {
        fn new(daemon: Daemon) -> Result<Self> {
            let home = Home::new("router", &["alice"], 1, Nat::default());
            let topology = Topology {
                servers: vec![Server::new("server")],
                homes: vec![home],
                ..Topology::default()
            };
            let directory = tempfile::tempdir()?;
            let world = World::build(&topology)?;
            fs::write(directory.path().join("gateway.toml"), POSTERN_CONFIG)?;
            fs::write(
                directory.path().join("miniupnpd.conf"),
                miniupnpd::config([45, 45, 2, 2].into(), "system_uptime=no\n"),
            )?;
            if daemon == Daemon::Miniupnpd {
                world.nft("router", miniupnpd::RULES)?;
            }
            let mut bed = Self {
                daemon,
                program: None,
                world,
                directory,
            };
            bed.start()?;
            Ok(bed)
        }

        /// Starts the daemon; how long it takes until it answers.
        fn start(&mut self) -> Result<Duration> {
            let at = |name: &str| self.directory.path().join(name);
            let begin = Instant::now();
            let mut command = match self.daemon {
                Daemon::Postern => {
                    let program = variable("POSTERN", POSTERN.to_owned())?;
                    let mut command = self.world.command("router", &program)?;
                    command.args(["gateway", "--wan", "wan", "--lan", "lan", "--config"]);
                    command.arg(at("gateway.toml"));
                    command.arg("--socket").arg(at("gateway.sock"));
                    command.arg("--state").arg(self.directory.path());
                    command
                }
                Daemon::Miniupnpd => {
                    // In front it would write a line for every rule that it looks at.
                    let mut command = self.world.command("router", "miniupnpd")?;
                    command.arg("-f").arg(at("miniupnpd.conf"));
                    command.arg("-P").arg(at("miniupnpd.pid"));
                    command
                }
            };
            command.current_dir(self.directory.path());
            self.program = Some(match self.daemon {
                Daemon::Postern => Running::Child(Program::start(command)?),
                Daemon::Miniupnpd => {
                    ensure!(command.status()?.success(), "miniupnpd does not start");
                    Running::Orphan(written_id(&at("miniupnpd.pid"))?)
                }
            });
            let path = self.daemon.path();
            while self
                .world
                .run("alice", || call(path, &request(ADDRESS, "")))?
                .is_err()
            {
                ensure!(
                    begin.elapsed() < PATIENCE,
                    "{:?} does not answer",
                    self.daemon
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(begin.elapsed())
        }

        /// Maps ports, one call after the other; the time of each in milliseconds.
        fn add(&self, first: u16, count: u16) -> Result<Vec<f64>> {
            let path = self.daemon.path();
            let add = |port| timed(path, &mapping(port));
            let add = || (first..first + count).map(add).collect();
            self.world.run("alice", add)?
        }

        /// The same call again and again: what the outside address is.
        fn ask(&self) -> Result<Vec<f64>> {
            let path = self.daemon.path();
            let ask = |_| timed(path, &request(ADDRESS, ""));
            let ask = || (0..TIMED).map(ask).collect();
            self.world.run("alice", ask)?
        }

        /// `RssAnon` and `VmRSS` in megabytes.
        fn memory(&self) -> Result<[f64; 2]> {
            let id = self.program.as_ref().context("it runs")?.id();
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            let field = |name: &str| -> Result<f64> {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let kilobytes = line.context("a field")?.trim().trim_end_matches(" kB");
                Ok(kilobytes.parse::<f64>()? / 1000.0)
            };
            Ok([field("RssAnon:")?, field("VmRSS:")?])
        }

        /// New flows a second from the server to a mapped port; each has a source port of its
        /// own, from `first` up.
        fn new_flows(&self, first: u16) -> Result<f64> {
            let host = self.world.udp("alice", (ALICE, FIRST_PORT).into())?;
            host.set_read_timeout(Some(PATIENCE))?;
            let to = SocketAddr::from((OUTSIDE, FIRST_PORT));
            let flow = |source| -> Result<()> {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source))?;
                socket.send_to(b"hello", to)?;
                host.recv_from(&mut [0; 8])?;
                Ok(())
            };
            let begin = Instant::now();
            let flows: Result<Vec<()>> = self
                .world
                .run("server", || (first..first + MANY).map(flow).collect())?;
            flows?;
            Ok(f64::from(MANY) / begin.elapsed().as_secs_f64())
        }

        /// How long the last mapping is gone after somebody else took the table away, in
        /// milliseconds.
        fn flush(&self) -> Result<f64> {
            let last = self.last_mapping()?;
            self.world.nft("router", "delete table inet postern\n")?;
            let begin = Instant::now();
            while !last.leads_in()? {
                std::thread::sleep(Duration::from_millis(1));
                ensure!(begin.elapsed() < PATIENCE, "it is not restored");
            }
            Ok(milliseconds(begin.elapsed()))
        }

        /// How long a start takes until the first answer, and until the last mapping leads in,
        /// and the longest that a call takes meanwhile; in milliseconds.
        fn start_again(&mut self) -> Result<[f64; 3]> {
            self.program = None;
            let last = self.last_mapping()?;
            let begin = Instant::now();
            let answered = milliseconds(self.start()?);
            let path = self.daemon.path();
            let mut slowest = 0.0_f64;
            while !last.leads_in()? {
                let ask = || timed(path, &request(ADDRESS, ""));
                slowest = slowest.max(self.world.run("alice", ask)??);
                ensure!(begin.elapsed() < PATIENCE, "it is not restored");
            }
            Ok([answered, milliseconds(begin.elapsed()), slowest])
        }

        fn last_mapping(&self) -> Result<LastMapping> {
            let host = self.world.udp("alice", (ALICE, LAST_PORT).into())?;
            host.set_nonblocking(true)?;
            let any = (Ipv4Addr::UNSPECIFIED, 0).into();
            let remote = self.world.udp("server", any)?;
            Ok(LastMapping { host, remote })
        }

        /// Connections that send half a request and wait.
        fn slow_connections(&self, count: u16) -> Result<Vec<TcpStream>> {
            let open = |_| {
                let mut stream = TcpStream::connect(UPNP)?;
                stream.write_all(b"POST / HTTP/1.1\r\n").map(|()| stream)
            };
            Ok(self
                .world
                .run("alice", || (0..count).flat_map(open).collect())?)
        }
    }

    /// The number that a daemon writes into a file when it has left its parent.
    fn written_id(path: &std::path::Path) -> Result<Pid> {
        let begin = Instant::now();
        loop {
            let written = fs::read_to_string(path).unwrap_or_default();
            if let Ok(id) = written.trim().parse() {
                return Ok(Pid::from_raw(id));
            }
            ensure!(begin.elapsed() < PATIENCE, "it does not say its number");
        }
    }

    fn installed(program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).exists())
    }

    /// Samples of one round, by the name of the row.
    type Samples = Vec<(&'static str, f64)>;

    pub(super) fn run() -> Result<()> {
        enter()?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let rounds = rounds()?;
        let theirs = installed("miniupnpd");
        if !theirs {
            say("miniupnpd is not installed: measured without it\n")?;
        }
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.extend(postern()?);
            if theirs {
                others.extend(miniupnpd()?);
            }
        }
        let mut report = Report::new("gateway");
        for (name, unit, goals) in ROWS {
            let of = |all: &Samples| -> Vec<f64> {
                let named = all.iter().filter(|(row, _)| row == name);
                named.map(|(_, sample)| *sample).collect()
            };
            let mut row = Row::new(name, unit)
                .subject("postern", of(&ours))
                .goals(goals);
            if !of(&others).is_empty() {
                row = row.subject("miniupnpd", of(&others));
            }
            report.add(&row)?;
        }
        report.save()
    }

    const ROWS: &[(&str, &str, &[Goal])] = &[
        ("adds a second, from 0 mappings", "1/s", &[]),
        ("adds a second, from 1,000 mappings", "1/s", &[]),
        (
            "adds a second, from 9,000 mappings",
            "1/s",
            &[Goal::AtLeast(3000.0)],
        ),
        ("add p99, from 0 mappings", "ms", &[]),
        ("add p99, from 1,000 mappings", "ms", &[]),
        ("add p99, from 9,000 mappings", "ms", &[Goal::AtMost(1.0)]),
        ("start with 10,000 leases", "ms", &[Goal::AtMost(1000.0)]),
        ("start with 10,000 leases, until answered", "ms", &[]),
        ("call meanwhile, slowest", "ms", &[]),
        (
            "flush by somebody else, until restored",
            "ms",
            &[Goal::AtMost(1000.0)],
        ),
        (
            "call p99, 10,000 slow connections",
            "ms",
            &[Goal::AtMost(10.0)],
        ),
        ("RssAnon, idle", "MB", &[Goal::AtMost(8.0)]),
        ("VmRSS, idle", "MB", &[]),
        ("RssAnon, 10,000 mappings", "MB", &[Goal::AtMost(16.0)]),
        ("VmRSS, 10,000 mappings", "MB", &[]),
        ("new flows a second, 1 mapping", "1/s", &[]),
        ("new flows a second, 10,000 mappings", "1/s", &[]),
        (
            "new flows, 10,000 mappings beside 1",
            "%",
            &[Goal::AtLeast(95.0)],
        ),
    ];

    fn add_rows(samples: &mut Samples, names: [&'static str; 2], times: &[f64]) {
        let seconds = times.iter().sum::<f64>() / 1e3;
        samples.push((names[0], times.len() as f64 / seconds));
        samples.push((names[1], quantile(times, 0.99)));
    }

    fn postern() -> Result<Samples> {
        let mut samples = Samples::new();
        let mut bed = Bed::new(Daemon::Postern)?;
        let [anonymous, resident] = bed.memory()?;
        samples.push(("RssAnon, idle", anonymous));
        samples.push(("VmRSS, idle", resident));
        let first = bed.add(FIRST_PORT, 1)?;
        let alone = bed.new_flows(10_000)?;
        samples.push(("new flows a second, 1 mapping", alone));
        let times = bed.add(FIRST_PORT + 1, TIMED)?;
        let names = ["adds a second, from 0 mappings", "add p99, from 0 mappings"];
        add_rows(&mut samples, names, &[first, times].concat());
        let times = bed.add(FIRST_PORT + 1 + TIMED, TIMED)?;
        let names = [
            "adds a second, from 1,000 mappings",
            "add p99, from 1,000 mappings",
        ];
        add_rows(&mut samples, names, &times);
        bed.add(FIRST_PORT + 1 + 2 * TIMED, MANY - 3 * TIMED)?;
        let times = bed.add(FIRST_PORT + 1 + MANY - TIMED, TIMED)?;
        let names = [
            "adds a second, from 9,000 mappings",
            "add p99, from 9,000 mappings",
        ];
        add_rows(&mut samples, names, &times);
        let [anonymous, resident] = bed.memory()?;
        samples.push(("RssAnon, 10,000 mappings", anonymous));
        samples.push(("VmRSS, 10,000 mappings", resident));
        let flows = bed.new_flows(20_000)?;
        samples.push(("new flows a second, 10,000 mappings", flows));
        let share = 100.0 * flows / alone;
        samples.push(("new flows, 10,000 mappings beside 1", share));
        let restored = bed.flush()?;
        samples.push(("flush by somebody else, until restored", restored));
        let held = bed.slow_connections(MANY)?;
        let times = bed.ask()?;
        let name = "call p99, 10,000 slow connections";
        samples.push((name, quantile(&times, 0.99)));
        drop(held);
        // The file of leases follows within a second.
        std::thread::sleep(Duration::from_secs(2));
        let [answered, restored, slowest] = bed.start_again()?;
        samples.push(("start with 10,000 leases", restored));
        samples.push(("start with 10,000 leases, until answered", answered));
        samples.push(("call meanwhile, slowest", slowest));
        Ok(samples)
    }

    fn miniupnpd() -> Result<Samples> {
        let mut samples = Samples::new();
        let bed = Bed::new(Daemon::Miniupnpd)?;
        let [anonymous, resident] = bed.memory()?;
        samples.push(("RssAnon, idle", anonymous));
        samples.push(("VmRSS, idle", resident));
        let first = bed.add(FIRST_PORT, 1)?;
        samples.push(("new flows a second, 1 mapping", bed.new_flows(10_000)?));
        let times = bed.add(FIRST_PORT + 1, SLOW)?;
        let names = ["adds a second, from 0 mappings", "add p99, from 0 mappings"];
        add_rows(&mut samples, names, &[first, times].concat());
        bed.add(FIRST_PORT + 1 + SLOW, TIMED - SLOW)?;
        let times = bed.add(FIRST_PORT + 1 + TIMED, SLOW)?;
        let names = [
            "adds a second, from 1,000 mappings",
            "add p99, from 1,000 mappings",
        ];
        add_rows(&mut samples, names, &times);
        Ok(samples)
    }

    const POSTERN_CONFIG: &str = "quota-host = 0\nquota-total = 16384\nrate = 0\n";

    const ADDRESS: &str = "GetExternalIPAddress";

    fn mapping(port: u16) -> String {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort>\
             <NewProtocol>UDP</NewProtocol><NewInternalPort>{port}</NewInternalPort>\
             <NewInternalClient>{ALICE}</NewInternalClient><NewEnabled>1</NewEnabled>\
             <NewPortMappingDescription>bench</NewPortMappingDescription>\
             <NewLeaseDuration>3600</NewLeaseDuration>"
        );
        request("AddPortMapping", &arguments)
    }

    fn request(action: &str, arguments: &str) -> String {
        let urn = "urn:schemas-upnp-org:service:WANIPConnection:1";
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope \
             xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{urn}\">{arguments}</u:{action}></s:Body></s:Envelope>"
        );
        format!(
            "HTTP/1.1\r\nHost: {UPNP}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
             SOAPAction: \"{urn}#{action}\"\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn call(path: &str, request: &str) -> Result<()> {
        let mut stream = TcpStream::connect(UPNP)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("POST {path} {request}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("{answer}");
        }
        Ok(())
    }

    fn timed(path: &str, request: &str) -> Result<f64> {
        let begin = Instant::now();
        call(path, request)?;
        Ok(milliseconds(begin.elapsed()))
    }

    fn milliseconds(time: Duration) -> f64 {
        time.as_secs_f64() * 1e3
    }
}
