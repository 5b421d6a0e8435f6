//! How long it takes from the start of the program to a mapping: `postern map add`, `upnpc` and
//! `natpmpc` in turn, on one host behind a router with miniupnpd, in network namespaces.
//!
//! `make bench-map` prints the table and writes `target/bench/map.json`; `ROUNDS=1` makes it
//! shorter. Programs that are not installed are left out; without miniupnpd there is nothing
//! to measure.

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return postern_bench::report::say("skipped: it runs with `make bench-map`\n");
    }
    bench::run()
}

#[cfg(target_os = "linux")]
mod bench {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, bail, ensure};
    use postern_bench::options::rounds;
    use postern_bench::report::{Goal, Report, Row, say};
    use postern_lab::netns::{Home, Program, Server, Topology, World, enter, miniupnpd};
    use postern_lab::sim::Nat;
    use tempfile::TempDir;

    const POSTERN: &str = env!("CARGO_BIN_EXE_postern");
    const MINIUPNPD: &str = "miniupnpd";
    /// As on a router: it puts itself into the background.
    const DAEMON: &str = r#"rm -f "$2"; "$0" -f "$1" -P "$2" && exec sleep infinity"#;
    /// Where it describes itself.
    const URL: &str = "http://192.168.1.1:5000/rootDesc.xml";

    /// Everything that is waited for comes sooner.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// So long the daemon runs before it is restarted: what differs less is rounding to those
    /// who compare its clock with theirs.
    const RUNNING: Duration = Duration::from_secs(5);

    /// Whether a mapping can be made.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Router {
        Maps,
        Silent,
    }

    /// A host, and a router with or without the daemon.
    struct Bed {
        daemon: Option<Program>,
        world: World,
        directory: TempDir,
    }

    impl Bed {
        fn new(router: Router) -> Result<Self> {
            let topology = Topology {
                servers: vec![Server::new("server")],
                homes: vec![Home::new("router", &["alice"], 1, Nat::default())],
                ..Topology::default()
            };
            let mut bed = Self {
                daemon: None,
                world: World::build(&topology)?,
                directory: tempfile::tempdir()?,
            };
            if router == Router::Maps {
                fs::write(
                    bed.path("miniupnpd.conf"),
                    miniupnpd::config([45, 45, 2, 2].into(), "system_uptime=no\n"),
                )?;
                bed.start()?;
            }
            Ok(bed)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.directory.path().join(name)
        }

        /// Starts the daemon with nothing mapped. It answers when this returns.
        fn start(&mut self) -> Result<()> {
            self.launch()?;
            let begin = Instant::now();
            while self.time("probe", &["map", "external"]).is_err() {
                ensure!(begin.elapsed() < PATIENCE, "miniupnpd does not answer");
            }
            Ok(())
        }

        fn launch(&mut self) -> Result<()> {
            self.daemon = None;
            self.world.nft("router", miniupnpd::RULES)?;
            // In the foreground it would write each of its steps to a console, which is slow.
            // What it leaves in the background ends with its namespace of processes.
            let mut command = self.world.command("router", "unshare")?;
            command.args([
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                DAEMON,
                MINIUPNPD,
            ]);
            command.arg(self.path("miniupnpd.conf"));
            command.arg(self.path("miniupnpd.pid"));
            command.current_dir(self.directory.path());
            self.daemon = Some(Program::start(command)?);
            Ok(())
        }

        /// Our program for a user of this name.
        fn ours(&self, user: &str, arguments: &[&str]) -> Result<Command> {
            let mut command = self.world.command("alice", POSTERN)?;
            command.args(arguments).env("HOME", self.path(user));
            command.env_remove("XDG_STATE_HOME");
            Ok(command)
        }

        /// How long our program takes, in milliseconds, when it succeeds.
        fn time(&self, user: &str, arguments: &[&str]) -> Result<f64> {
            self.timed(POSTERN, user, arguments, true)
        }

        /// The same of another program.
        fn time_other(&self, program: &str, arguments: &str, succeeds: bool) -> Result<f64> {
            let arguments: Vec<&str> = arguments.split_whitespace().collect();
            self.timed(program, program, &arguments, succeeds)
        }

        /// Starts a program from a thread that is on the host already: to enter the namespace
        /// first takes longer than some of them.
        fn timed(&self, program: &str, user: &str, arguments: &[&str], good: bool) -> Result<f64> {
            let mut command = Command::new(program);
            command.args(arguments).env("HOME", self.path(user));
            command.env_remove("XDG_STATE_HOME");
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let run = || -> Result<f64> {
                let begin = Instant::now();
                let status = command.status()?;
                let time = milliseconds(begin.elapsed());
                if status.success() != good {
                    bail!("{command:?}: {status}");
                }
                Ok(time)
            };
            self.world.run("alice", run)?
        }

        /// Whether the port of the benchmark is mapped.
        fn is_mapped(&self) -> Result<bool> {
            let mut command = self.world.command("router", "nft")?;
            command.args(["list", "chain", "inet", "mini", "prerouting_miniupnpd"]);
            let listed = command.output()?;
            Ok(String::from_utf8_lossy(&listed.stdout).contains("4001"))
        }

        /// How long after the router has started again, with nothing in its memory, what
        /// `postern map add --keep` keeps is mapped again, in milliseconds.
        fn again(&mut self, protocol: &str) -> Result<f64> {
            std::thread::sleep(RUNNING);
            let add = "map add 4000 --external 4001 --keep --protocols";
            let add: Vec<&str> = add.split(' ').chain([protocol]).collect();
            let mut keeper = Program::start(self.ours(protocol, &add)?)?;
            keeper.line(PATIENCE).context("a mapping")?;
            ensure!(self.is_mapped()?, "it is mapped");
            self.launch()?;
            ensure!(!self.is_mapped()?, "it is forgotten");
            let begin = Instant::now();
            while !self.is_mapped()? {
                ensure!(
                    begin.elapsed() < PATIENCE,
                    "{protocol}: it is not mapped again"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(milliseconds(begin.elapsed()))
        }
    }

    fn milliseconds(time: Duration) -> f64 {
        time.as_secs_f64() * 1e3
    }

    fn installed(program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/sbin", "/sbin"].map(Path::new);
        let own = std::env::split_paths(&path);
        own.chain(system.map(Path::to_owned))
            .any(|directory| directory.join(program).exists())
    }

    /// By row and subject.
    type Samples = BTreeMap<(&'static str, &'static str), Vec<f64>>;

    const FIRST: &str = "first mapping, nothing known";
    const FIRST_UPNP: &str = "first mapping by UPnP, nothing known";
    const KNOWN: &str = "mapping, gateway known";
    const KNOWN_UPNP: &str = "mapping by UPnP, gateway known";
    const NOBODY: &str = "no gateway: until that is said";
    const AGAIN: &str = "again after the router's restart, by PCP";
    const AGAIN_UPNP: &str = "again after the router's restart, by UPnP";

    const ROWS: &[(&str, &[Goal])] = &[
        (FIRST, &[Goal::AtMost(100.0)]),
        (FIRST_UPNP, &[Goal::AtMost(100.0)]),
        (KNOWN, &[Goal::AtMost(10.0)]),
        (KNOWN_UPNP, &[Goal::AtMost(10.0)]),
        (NOBODY, &[Goal::AtMost(3000.0)]),
        (AGAIN, &[Goal::AtMost(6000.0)]),
        (AGAIN_UPNP, &[Goal::AtMost(6000.0)]),
    ];

    const ADD: &[&str] = &["map", "add", "4000", "--external", "4001"];
    const ADD_UPNP: &[&str] = &[
        "map",
        "add",
        "4000",
        "--external",
        "4001",
        "--protocols",
        "upnp",
    ];

    pub(super) fn run() -> Result<()> {
        enter()?;
        if !installed(MINIUPNPD) {
            return say("miniupnpd is not installed: nothing to measure\n");
        }
        let mut samples = Samples::new();
        for round in 0..rounds()? {
            measure(&mut samples, round)?;
        }
        let mut report = Report::new("map");
        for (name, goals) in ROWS {
            let mut row = Row::new(name, "ms");
            for subject in ["postern", "upnpc", "natpmpc"] {
                if let Some(samples) = samples.get(&(*name, subject)) {
                    row = row.subject(subject, samples.clone());
                }
            }
            report.add(&row.goals(goals))?;
        }
        report.save()
    }

    /// One round of everything.
    fn measure(samples: &mut Samples, round: u32) -> Result<()> {
        let mut note = |row, subject, sample| {
            samples.entry((row, subject)).or_default().push(sample);
        };
        let mut bed = Bed::new(Router::Maps)?;
        let [any, upnp] = ["any", "upnp"].map(|kind| format!("{kind}{round}"));
        note(FIRST, "postern", bed.time(&any, ADD)?);
        note(KNOWN, "postern", bed.time(&any, ADD)?);
        note(FIRST_UPNP, "postern", bed.time(&upnp, ADD_UPNP)?);
        note(KNOWN_UPNP, "postern", bed.time(&upnp, ADD_UPNP)?);
        if installed("upnpc") {
            let add = "-a 192.168.1.10 4000 4001 tcp 7200";
            let found = bed.time_other("upnpc", add, true)?;
            let named = bed.time_other("upnpc", &format!("-u {URL} {add}"), true)?;
            for (row, sample) in [(FIRST, found), (FIRST_UPNP, found)] {
                note(row, "upnpc", sample);
            }
            for (row, sample) in [(KNOWN, named), (KNOWN_UPNP, named)] {
                note(row, "upnpc", sample);
            }
        }
        let natpmp = "-g 192.168.1.1 -a 4001 4000 tcp 7200";
        if installed("natpmpc") {
            note(FIRST, "natpmpc", bed.time_other("natpmpc", natpmp, true)?);
        }
        note(AGAIN, "postern", bed.again("pcp")?);
        note(AGAIN_UPNP, "postern", bed.again("upnp")?);
        let bed = Bed::new(Router::Silent)?;
        let nobody = bed.timed(POSTERN, "nobody", ADD, false)?;
        note(NOBODY, "postern", nobody);
        if installed("upnpc") {
            note(NOBODY, "upnpc", bed.time_other("upnpc", "-s", false)?);
        }
        Ok(())
    }
}
