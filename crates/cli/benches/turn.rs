//! What relaying a packet costs the server: the same load on this relay and on coturn, in
//! turn, in one run.
//!
//! `make bench-turn` prints the table and writes `target/bench/turn.json`. `ROUNDS=3`
//! makes it shorter. Everything runs on one host of a namespace, over loopback: the cost
//! is the processor time of the server's threads by the packets that came out.

#![expect(clippy::print_stdout, reason = "the table is the result")]

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::io::IoSlice;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use nix::sys::socket::{
        ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt,
    };
    use postern_lab::netns::{Program, Server, Topology, World, enter};
    use postern_wire::stun::{
        Builder, Class, Message, Method, Nonce, Realm, TransactionId, Username, long_term_key_md5,
    };
    use postern_wire::turn::{
        ChannelData, ChannelNumber, RequestedTransport, XorPeerAddress, XorRelayedAddress,
    };
    use serde_json::{Value, json};

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Packets on the way at once: fewer than fit into a socket's buffer.
    const WINDOW: u64 = 64;

    /// How long one sample is measured.
    const MEASURED: Duration = Duration::from_secs(2);

    /// Bytes of data in a packet.
    const DATA: usize = 1200;

    const ADDRESS: &str = "45.45.1.2";

    /// A load: its name, and how many packets one system call of the client sends.
    const LOADS: [(&str, usize); 2] = [
        ("ChannelData 1200 B, trains of 32", 32),
        ("ChannelData 1200 B, single packets", 1),
    ];

    const SUBJECTS: [(&str, u16); 2] = [("postern", 3478), ("coturn", 4478)];

    pub(super) fn main() -> Result<()> {
        if !std::env::args().any(|argument| argument == "--bench") {
            println!("skipped: the benchmark runs with `make bench-turn`");
            return Ok(());
        }
        enter()?;
        let world = World::build(&Topology {
            servers: vec![Server::new("server")],
            ..Topology::default()
        })?;
        let directory = tempfile::tempdir()?;
        let servers = [
            Program::start(postern(&world)?)?,
            Program::start(coturn(&world, directory.path())?)?,
        ];
        std::thread::sleep(Duration::from_secs(2));
        let mut rows = Vec::new();
        for (name, train) in LOADS {
            rows.extend(measure(&world, &servers, name, train)?);
        }
        print(&rows);
        save(&json!({ "rows": rows, "machine": machine(), "date": date()? }))
    }

    fn postern(world: &World) -> Result<std::process::Command> {
        let mut command = world.command("server", env!("CARGO_BIN_EXE_postern"))?;
        command.args([
            "server",
            "--listen",
            ADDRESS,
            "--user",
            "user:pass",
            "--json",
        ]);
        command.args(["--allow-peer", ADDRESS, "--unproven-rate", "0"]);
        Ok(command)
    }

    fn coturn(world: &World, directory: &Path) -> Result<std::process::Command> {
        let mut command = world.command("server", "turnserver")?;
        let own = |name: &str| directory.join(name).display().to_string();
        command.args(["-n", "-c", "/dev/null", "-L", ADDRESS, "-E", ADDRESS]);
        command.args(["-p", "4478", "-u", "user:pass", "-r", "example.org"]);
        command.args(["--lt-cred-mech", "--allow-loopback-peers", "--no-cli"]);
        command.args(["--no-tls", "--no-dtls", "--simple-log"]);
        command.args(["--min-port", "20000", "--max-port", "30000"]);
        command.args(["--log-file", &own("log"), "--pidfile", &own("pid")]);
        command.args(["--userdb", &own("users")]);
        Ok(command)
    }

    fn measure(world: &World, servers: &[Program], name: &str, train: usize) -> Result<Vec<Value>> {
        let rounds = std::env::var("ROUNDS")
            .ok()
            .and_then(|text| text.parse().ok());
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..rounds.unwrap_or(5) {
            for (index, (_, port)) in SUBJECTS.iter().enumerate() {
                let server = format!("{ADDRESS}:{port}").parse()?;
                let id = servers[index].id();
                let sample = world.run("server", || sample(server, id, train));
                let sample = sample?.map_err(|error| error.to_string())?;
                samples[index].push(sample);
            }
        }
        let reference = median(&samples[1]);
        let row = |index: usize| {
            let (subject, _) = SUBJECTS[index];
            let middle = median(&samples[index]);
            json!({
                "name": name, "unit": "µs CPU a packet", "subject": subject,
                "samples": samples[index], "median": middle,
                "ratio_to": "coturn", "ratio": middle / reference,
            })
        };
        Ok(vec![row(0), row(1)])
    }

    /// Microseconds of the server's processor time for each packet that came out.
    fn sample(
        server: SocketAddr,
        id: u32,
        train: usize,
    ) -> std::result::Result<f64, Box<dyn Error + Send + Sync>> {
        let failed = |error: Box<dyn Error>| error.to_string();
        let peer = UdpSocket::bind((ADDRESS, 0))?;
        setsockopt(&peer, sockopt::UdpGroSegment, &true)?;
        let client = UdpSocket::bind((ADDRESS, 0))?;
        client.connect(server)?;
        let channel = bind_channel(&client, peer.local_addr()?).map_err(failed)?;
        let sink = Sink::start(peer)?;
        let packet = ChannelData {
            channel,
            data: &[0x5a; DATA],
        };
        let packets = packet.to_datagram().repeat(train);
        send(&client, &sink, &packets, train, Duration::from_millis(300))?;
        let (before, arrived) = (cpu(id)?, sink.packets());
        send(&client, &sink, &packets, train, MEASURED)?;
        let cost = cpu(id)? - before;
        let arrived = sink.packets() - arrived;
        sink.stop();
        Ok(cost / 1000.0 / arrived as f64)
    }

    /// Sends as fast as packets come out. A server that is flooded works for packets that
    /// it then drops, which would be charged to the others.
    fn send(
        client: &UdpSocket,
        sink: &Sink,
        packets: &[u8],
        train: usize,
        time: Duration,
    ) -> std::io::Result<()> {
        let segment = u16::try_from(packets.len() / train).unwrap_or(u16::MAX);
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let control = if train > 1 { &control[..] } else { &[] };
        let mut to_come = sink.packets();
        let end = Instant::now() + time;
        while Instant::now() < end {
            sink.wait_for(to_come.saturating_sub(WINDOW));
            // What is missing after the wait was lost, and is not waited for again.
            to_come = to_come.min(sink.packets() + WINDOW);
            let parts = [IoSlice::new(packets)];
            let to: Option<&SockaddrStorage> = None;
            sendmsg(client.as_raw_fd(), &parts, control, MsgFlags::empty(), to)?;
            to_come += train as u64;
        }
        Ok(())
    }

    /// Counts what arrives at the peer.
    struct Sink {
        bytes: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
        thread: std::thread::JoinHandle<()>,
    }

    impl Sink {
        fn start(peer: UdpSocket) -> std::io::Result<Self> {
            peer.set_read_timeout(Some(Duration::from_millis(50)))?;
            let (bytes, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
            let (counter, ends) = (bytes.clone(), stop.clone());
            let thread = std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !ends.load(Ordering::Relaxed) {
                    if let Ok(length) = peer.recv(&mut buffer) {
                        counter.fetch_add(length as u64, Ordering::Relaxed);
                    }
                }
            });
            Ok(Self {
                bytes,
                stop,
                thread,
            })
        }

        fn packets(&self) -> u64 {
            self.bytes.load(Ordering::Relaxed) / DATA as u64
        }

        /// Waits until so many packets have come, or no more seem to come.
        fn wait_for(&self, count: u64) {
            let end = Instant::now() + Duration::from_millis(5);
            while self.packets() < count && Instant::now() < end {
                std::thread::yield_now();
            }
        }

        fn stop(self) {
            self.stop.store(true, Ordering::Relaxed);
            let _ = self.thread.join();
        }
    }

    /// Allocates and binds a channel to the peer.
    fn bind_channel(client: &UdpSocket, peer: SocketAddr) -> Result<ChannelNumber> {
        let channel = ChannelNumber::MIN;
        let bare = Builder::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12]));
        let bare = bare.attribute(&RequestedTransport::UDP);
        let challenge = ask(client, &bare.build())?;
        let challenge = Message::parse(&challenge)?;
        let realm: Realm<'_> = challenge.get()?.ok_or("no realm")?;
        let nonce: Nonce<'_> = challenge.get()?.ok_or("no nonce")?;
        let user = Username::new("user")?;
        let key = long_term_key_md5("user", realm.as_str(), "pass");
        let sign = |request: Builder| {
            let request = request.attribute(&user).attribute(&realm).attribute(&nonce);
            request.message_integrity(&key).build()
        };
        let allocate = Builder::new(Class::Request, Method::ALLOCATE, TransactionId([2; 12]));
        let response = ask(client, &sign(allocate.attribute(&RequestedTransport::UDP)))?;
        let relayed = Message::parse(&response)?.get::<XorRelayedAddress>()?;
        relayed.ok_or("no allocation")?;
        let bind = Builder::new(Class::Request, Method::CHANNEL_BIND, TransactionId([3; 12]));
        let bind = bind.attribute(&channel).attribute(&XorPeerAddress(peer));
        let response = ask(client, &sign(bind))?;
        if Message::parse(&response)?.class() != Class::Success {
            return Err("the channel was not bound".into());
        }
        Ok(channel)
    }

    fn ask(client: &UdpSocket, request: &[u8]) -> Result<Vec<u8>> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.send(request)?;
        let mut buffer = vec![0; 2048];
        let length = client.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Processor time of all threads of a process, in nanoseconds.
    fn cpu(id: u32) -> std::io::Result<f64> {
        let mut total = 0.0;
        for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
            let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
            let spent = text.split(' ').next().and_then(|text| text.parse().ok());
            total += spent.unwrap_or(0.0);
        }
        Ok(total)
    }

    fn median(samples: &[f64]) -> f64 {
        let mut values = samples.to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn print(rows: &[Value]) {
        println!("{:36} {:8} {:>8} {:>6}", "", "", "median", "ratio");
        for row in rows {
            let word = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let value = |field: &str| row[field].as_f64().unwrap_or(f64::NAN);
            println!(
                "{:36} {:8} {:>8.3} {:>6.2}  {}",
                word("name"),
                word("subject"),
                value("median"),
                value("ratio"),
                word("unit")
            );
        }
    }

    fn machine() -> Value {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        json!({
            "cpus": cpus,
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "load": read("/proc/loadavg").trim(),
        })
    }

    /// Seconds since 1970: the reader's calendar makes a date of it.
    fn date() -> Result<u64> {
        Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
    }

    fn save(report: &Value) -> Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
        std::fs::create_dir_all(&directory)?;
        let path = directory.join("turn.json");
        std::fs::write(&path, serde_json::to_string_pretty(report)?)?;
        println!("written to target/bench/turn.json");
        Ok(())
    }
}
