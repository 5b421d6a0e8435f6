//! What an operator does to `postern server`: configure, reload, drain, watch.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::netns::{Case, Program, World};
use tempfile::TempDir;

use crate::scene::{ALL_ARRIVED, LIMIT, POSTERN, SERVER_ADDRESS, client, hear, peer, world};

/// A client that sends 60 packets in 6 seconds. Over UDP coturn's client would leave its
/// allocation behind.
const LONG: &str = "-u alice -w a -c -t -e PEER -r 3480 -n 60 -z 100";

/// A client that only wants to know whether it is let in.
const SHORT: &str = "-c -e PEER -r 3480 -n 2 -z 5";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a_reload_changes_users_and_drops_no_allocation",
        run: a_reload_changes_users_and_drops_no_allocation,
    },
    Case {
        name: "a_reload_reaches_every_thread_and_every_transport",
        run: a_reload_reaches_every_thread_and_every_transport,
    },
    Case {
        name: "a_file_that_cannot_be_used_changes_nothing_and_is_complained_about",
        run: a_file_that_cannot_be_used_changes_nothing_and_is_complained_about,
    },
    Case {
        name: "a_server_that_drains_waits_for_its_clients_and_takes_no_others",
        run: a_server_that_drains_waits_for_its_clients_and_takes_no_others,
    },
    Case {
        name: "a_second_signal_ends_a_server_that_drains",
        run: a_second_signal_ends_a_server_that_drains,
    },
    Case {
        name: "prometheus_is_told_what_the_relay_does",
        run: prometheus_is_told_what_the_relay_does,
    },
];

struct Operated {
    server: Program,
    _peer: Program,
    world: World,
    file: PathBuf,
    _directory: TempDir,
    ready: serde_json::Value,
}

impl Operated {
    /// A server that is configured by a file with this text behind its address.
    fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.toml");
        let world = world(1);
        write(&file, text);
        let mut command = world.command("server", POSTERN).unwrap();
        command.args(["server", "--json", "--config"]).arg(&file);
        let mut server = Program::start(command).unwrap();
        let ready = server.event("ready", LIMIT);
        let ready = ready.unwrap_or_else(|| panic!("{}", server.complaints()));
        Self {
            server,
            _peer: Program::start(peer(&world)).unwrap(),
            world,
            file,
            _directory: directory,
            ready,
        }
    }

    fn client(&self, arguments: &str) -> Program {
        client(&self.world, "client", arguments)
    }

    /// What a client says in the end.
    fn said(&self, arguments: &str) -> String {
        hear(&mut self.client(arguments), ALL_ARRIVED)
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.server.id().cast_signed());
        kill(id, signal).unwrap();
    }

    /// Waits until the server has said this on standard error.
    fn complaint(&mut self, part: &str) -> String {
        let mut said = String::new();
        for _ in 0..100 {
            said += &self.server.complaints();
            if said.contains(part) {
                return said;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server said {said:?}, not {part:?}");
    }

    /// Writes the file anew and lets the server read it.
    fn reload(&mut self, text: &str, answer: &str) {
        write(&self.file, text);
        self.signal(Signal::SIGHUP);
        self.complaint(answer);
    }

    fn scrape(&self) -> String {
        let address = self.ready["metrics"].as_str().unwrap().to_owned();
        let ask = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        self.world.run("server", ask).unwrap()
    }

    /// The first sample of the metrics that begins like this.
    fn sample(&self, begin: &str) -> u64 {
        let text = self.scrape();
        let line = text.lines().find_map(|line| line.strip_prefix(begin));
        let value = line.unwrap_or_else(|| panic!("no {begin} in {text}"));
        value.trim().parse().unwrap()
    }

    fn wait_for_allocation(&self) {
        self.wait_for_allocations("tcp");
    }

    /// Waits for a client that comes over this transport.
    fn wait_for_allocations(&self, transport: &str) {
        let begin = format!("postern_turn_allocations{{client=\"{transport}\",relay=\"udp\"}} ");
        for _ in 0..100 {
            if self.scrape().contains(&begin) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no allocation over {transport}");
    }
}

fn write(file: &std::path::Path, text: &str) {
    let text = format!(
        "listen = '{SERVER_ADDRESS}'\nrealm = 'example.org'\nmetrics = '127.0.0.1:0'\n{text}"
    );
    fs::write(file, text).unwrap();
}

fn a_reload_changes_users_and_drops_no_allocation() {
    let mut operated = Operated::start("user = ['alice:a', 'bob:b']\n");
    let mut long = operated.client(LONG);
    operated.wait_for_allocation();
    operated.reload("user = ['carol:c']\nquota-user = 7\n", "was read again");
    let carol = operated.said(&format!("-u carol -w c {SHORT}"));
    assert!(carol.contains(ALL_ARRIVED), "{carol}");
    let bob = operated.said(&format!("-u bob -w b {SHORT}"));
    assert!(bob.contains("Cannot complete Allocation"), "{bob}");
    let said = hear(&mut long, ALL_ARRIVED);
    assert!(said.contains(ALL_ARRIVED), "{said}");
    operated.reload("user = ['carol:c']\nport = 9000\n", "needs a restart: port");
}

/// The system chooses the thread that serves a client over UDP: of six, all are one
/// thread's in one run of thirty, which then tests less.
fn a_reload_reaches_every_thread_and_every_transport() {
    let mut operated = Operated::start("user = ['alice:a', 'bob:b']\nthreads = 2\n");
    let over_udp = "-u alice -w a -c -e PEER -r 3480 -n 60 -z 100";
    let over_tls = "-u alice -w a -c -t -S -p 5349 -e PEER -r 3480 -n 60 -z 100";
    let mut long: Vec<_> = [over_udp, over_udp, over_udp, over_tls]
        .map(|arguments| operated.client(arguments))
        .into();
    operated.wait_for_allocations("udp");
    operated.wait_for_allocations("tls");
    operated.reload("user = ['carol:c']\nthreads = 2\n", "was read again");
    let mut clients: Vec<_> = (0..6)
        .map(|_| operated.client(&format!("-u carol -w c {SHORT}")))
        .collect();
    for carol in &mut clients {
        let said = hear(carol, ALL_ARRIVED);
        assert!(said.contains(ALL_ARRIVED), "{said}");
    }
    let mut clients: Vec<_> = (0..6)
        .map(|_| operated.client(&format!("-u bob -w b {SHORT}")))
        .collect();
    for bob in &mut clients {
        let said = hear(bob, "Cannot complete Allocation");
        assert!(said.contains("Cannot complete Allocation"), "{said}");
    }
    for alice in &mut long {
        let said = hear(alice, ALL_ARRIVED);
        assert!(said.contains(ALL_ARRIVED), "{said}");
    }
    operated.reload(
        "user = ['carol:c']\nthreads = 3\n",
        "needs a restart: threads",
    );
}

fn a_file_that_cannot_be_used_changes_nothing_and_is_complained_about() {
    let mut operated = Operated::start("user = 'alice:a'\n");
    let line = "stays as it was: ";
    operated.reload("user = 'carol:c'\nquota-usr = 1\n", line);
    write(&operated.file, "user = 'carol:c'\nquota-user = -1\n");
    operated.signal(Signal::SIGHUP);
    let said = operated.complaint("quota-user");
    assert!(said.contains("server.toml, line 5: quota-user: "), "{said}");
    let alice = operated.said(&format!("-u alice -w a {SHORT}"));
    assert!(alice.contains(ALL_ARRIVED), "{alice}");
}

fn a_server_that_drains_waits_for_its_clients_and_takes_no_others() {
    let mut operated = Operated::start("user = 'alice:a'\n");
    let mut long = operated.client(LONG);
    operated.wait_for_allocation();
    operated.signal(Signal::SIGTERM);
    operated.complaint("takes no new clients");
    let draining = operated.server.event("draining", LIMIT).unwrap();
    assert!(draining["allocations"].as_u64().unwrap() >= 1, "{draining}");
    let late = operated.said(&format!("-u alice -w a {SHORT}"));
    assert!(late.contains("error 508"), "{late}");
    let said = hear(&mut long, ALL_ARRIVED);
    assert!(said.contains(ALL_ARRIVED), "{said}");
    let mut left = draining;
    while left["allocations"] != 0 {
        left = operated.server.event("draining", LIMIT).unwrap();
    }
    let ended = operated.server.end(LIMIT).unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

fn a_second_signal_ends_a_server_that_drains() {
    let text = "user = 'alice:a'\ndrain-timeout = 3600\ndrain-to = '45.45.9.9:3478'\n";
    let mut operated = Operated::start(text);
    let _long = operated.client(LONG);
    operated.wait_for_allocation();
    operated.signal(Signal::SIGTERM);
    operated.complaint("takes no new clients");
    // It goes there, and waits.
    let mut late = operated.client(&format!("-u alice -w a {SHORT}"));
    let late = hear(&mut late, "error 300");
    assert!(late.contains("error 300"), "{late}");
    operated.signal(Signal::SIGTERM);
    let ended = operated.server.end(Duration::from_secs(10)).unwrap();
    assert_eq!(ended.unwrap().code(), Some(0));
}

fn prometheus_is_told_what_the_relay_does() {
    let operated = Operated::start("user = 'alice:a'\n");
    let said = operated.said("-u alice -w a -c -e PEER -r 3480 -n 20 -z 5");
    assert!(said.contains(ALL_ARRIVED), "{said}");
    // The client takes two allocations, and sends 20 times 100 bytes.
    let allocated = "postern_turn_answers_total{method=\"allocate\",result=\"success\"}";
    assert_eq!(operated.sample(allocated), 2);
    assert!(operated.sample("postern_turn_data_bytes_total{to=\"peer\"}") >= 2000);
    let denied = operated.said("-u alice -w a -c -e 10.0.0.1 -r 3480 -n 2 -z 5");
    assert!(denied.contains("error 403"), "{denied}");
    let refused = "postern_turn_answers_total{method=\"create_permission\",result=\"403\"}";
    let bound = "postern_turn_answers_total{method=\"channel_bind\",result=\"403\"}";
    let text = operated.scrape();
    assert!(text.contains(refused) || text.contains(bound), "{text}");
}
