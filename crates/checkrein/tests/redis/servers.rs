//! Redis servers for tests: started on free ports, treated badly, and always cleaned up.
//!
//! To be included with `#[path = "redis/servers.rs"] mod servers;`. Everything a test starts ends with the value that
//! stands for it, also when the test panics.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take for what it has to do before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether there is a `redis-server` to start. Tests call this first, say that they were skipped and return: only a
/// machine without one may do so, and the checks install it.
pub(crate) fn missing() -> bool {
    let found =
        Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        assert!(
            std::env::var_os("CHECKREIN_REQUIRE_REDIS").is_none(),
            "redis-server is missing: install redis-server"
        );
        eprintln!("skipped: there is no redis-server on this machine");
    }
    missing
}

/// A port that nobody listens on, and that no other test of this machine will get while this process lives. Its cluster
/// bus port (10,000 above) is free as well, and neither is one that the system gives to connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<std::fs::File>> = Mutex::new(Vec::new());
    // Tests are several processes: each begins elsewhere.
    let offset = u16::try_from(std::process::id() % 600).unwrap() * 20;
    for _ in 0..12_000 {
        let port = 10_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000) % 12_000;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if !free(port) || !free(port + 10_000) {
            continue;
        }
        let lock = std::env::temp_dir().join(format!("checkrein-test-port-{port}"));
        if let Ok(file) = std::fs::File::create(lock)
            && file.try_lock().is_ok()
        {
            HELD.lock().unwrap().push(file);
            return port;
        }
    }
    panic!("no free port");
}

/// One server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    options: Vec<String>,
    child: Option<Child>,
    password: Option<String>,
    tls: Option<PathBuf>,
    kept: Option<TempDir>,
}

impl Server {
    /// Starts a server that keeps nothing, with these options more: `&["--maxmemory", "10mb"]`.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_on(free_port(), options)
    }

    /// The same on a port of one's choice.
    pub(crate) fn start_on(port: u16, options: &[&str]) -> Self {
        let kept = tempfile::Builder::new().prefix("checkrein-redis-").tempdir().unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let dir = kept.path().to_owned();
        let mut server =
            Self { port, dir, options, child: None, password: None, tls: None, kept: Some(kept) };
        server.run();
        server
    }

    /// A server that writes everything to its disk before it answers: it survives being killed.
    pub(crate) fn durable() -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A server that wants a password.
    pub(crate) fn with_password(password: &str, options: &[&str]) -> Self {
        let mut all = vec!["--requirepass", password];
        all.extend_from_slice(options);
        let mut server = Self::start_unready(&all);
        server.password = Some(password.to_owned());
        server.wait();
        server
    }

    /// A server that speaks TLS only, with the certificates of [`certificates`] in its directory.
    pub(crate) fn with_tls(options: &[&str]) -> Self {
        let kept = tempfile::Builder::new().prefix("checkrein-redis-").tempdir().unwrap();
        let dir = kept.path().to_owned();
        certificates(&dir);
        let file = |name: &str| dir.join(name).display().to_string();
        let port = free_port();
        let mut all: Vec<String> = [
            "--port",
            "0",
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file("server.crt"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-ca-cert-file",
            &file("ca.crt"),
            "--tls-auth-clients",
            "no",
        ]
        .map(str::to_owned)
        .to_vec();
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let tls = Some(dir.clone());
        let mut server = Self { port, dir, options: all, child: None, password: None, tls, kept: Some(kept) };
        server.run();
        server
    }

    fn start_unready(options: &[&str]) -> Self {
        let kept = tempfile::Builder::new().prefix("checkrein-redis-").tempdir().unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (port, dir) = (free_port(), kept.path().to_owned());
        let mut server =
            Self { port, dir, options, child: None, password: None, tls: None, kept: Some(kept) };
        server.spawn("redis-server", &[]);
        server
    }

    fn run(&mut self) {
        self.spawn("redis-server", &[]);
        self.wait();
    }

    fn spawn(&mut self, program: &str, before: &[String]) {
        let port = self.port.to_string();
        let mut command = Command::new(program);
        command.args(before);
        if before.is_empty() {
            command.args([
                "--save",
                "",
                "--bind",
                "127.0.0.1",
                "--logfile",
                "log",
                "--enable-debug-command",
                "local",
            ]);
            command.args(["--port", &port, "--dir"]).arg(&self.dir).args(&self.options);
        }
        self.child =
            Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Waits until it answers.
    pub(crate) fn wait(&self) {
        until("the server answers", || {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(self.is_running(), "the server has ended: {}", log());
            let said = self.try_cli(&["PING"]);
            said.contains("PONG") || said.contains("NOAUTH") || said.contains("NOPERM")
        });
    }

    fn is_running(&self) -> bool {
        // A process that has ended and was not waited for yet is a zombie.
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        status.map_or(!cfg!(target_os = "linux"), |status| !status.contains(") Z "))
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        match (&self.tls, &self.password) {
            (Some(dir), _) => {
                format!("rediss://localhost:{}?ca_cert={}", self.port, dir.join("ca.crt").display())
            }
            (None, Some(password)) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            (None, None) => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Runs a command through redis-cli; panics when the server refuses it.
    pub(crate) fn cli(&self, words: &[&str]) -> String {
        let text = self.try_cli(words);
        let refused = ["ERR ", "WRONGTYPE ", "NOAUTH ", "NOPERM ", "Could not connect"];
        assert!(!refused.iter().any(|start| text.starts_with(start)), "{words:?}: {text}");
        text
    }

    /// Runs a command through redis-cli and returns what it said, whatever that is.
    pub(crate) fn try_cli(&self, words: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args([
            "-h",
            if self.tls.is_some() { "localhost" } else { "127.0.0.1" },
            "-p",
            &self.port.to_string(),
        ]);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        if let Some(dir) = &self.tls {
            command.arg("--tls").arg("--cacert").arg(dir.join("ca.crt"));
            command.arg("--cert").arg(dir.join("client.crt")).arg("--key").arg(dir.join("client.key"));
        }
        let output = command.args(words).stdin(Stdio::null()).output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        text.push_str(String::from_utf8_lossy(&output.stderr).trim_end());
        text
    }

    /// A line of its INFO.
    pub(crate) fn info(&self, name: &str) -> String {
        let info = self.cli(&["INFO"]);
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    /// The id of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Kills it as a crash would (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on its port and with its files.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Stops it in the middle of whatever it does (SIGSTOP): connections stay, answers stay away.
    pub(crate) fn pause(&self) {
        signal(self.pid(), "STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        signal(self.pid(), "CONT");
    }

    /// Makes it hold every command of clients back for a while (`CLIENT PAUSE`).
    pub(crate) fn pause_clients(&self, time: Duration) {
        self.cli(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "ALL"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.dir.join("log"))
        {
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the last of the log of the server on port {}:", self.port);
            lines.iter().skip(lines.len().saturating_sub(10)).for_each(|line| eprintln!("  {line}"));
        }
        self.kill();
        drop(self.kept.take());
    }
}

fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.is_ok(), "kill is missing");
}

/// Waits for something that has to come to pass.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Writes an authority (`ca.crt`), and certificates by it for a server on localhost (`server.crt`, `server.key`) and for a
/// client (`client.crt`, `client.key`), and an authority that signed neither (`other.crt`).
pub(crate) fn certificates(dir: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for authority in ["ca", "other"] {
        let (key, certificate) = (format!("{authority}.key"), format!("{authority}.crt"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=tests",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
    }
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(dir.join("names"), names).unwrap();
    for owner in ["server", "client"] {
        let (key, request, certificate) =
            (format!("{owner}.key"), format!("{owner}.csr"), format!("{owner}.crt"));
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={owner}"),
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "names",
            "-out",
            &certificate,
        ]);
    }
}

/// A cluster of masters, all slots served.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    /// Three masters, and as many replicas for each as one likes.
    pub(crate) fn start(replicas: usize) -> Self {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            "1000",
            "--cluster-replica-validity-factor",
            "0",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let nodes: Vec<_> = (0..3 * (replicas + 1)).map(|_| Server::start(&options)).collect();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]);
        command.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)));
        command.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        cluster.wait();
        cluster
    }

    /// Waits until every node says that all is well.
    pub(crate) fn wait(&self) {
        for node in &self.nodes {
            until("the cluster is up", || node.try_cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
            until("every node knows every slot", || {
                node.try_cli(&["CLUSTER", "INFO"]).contains("cluster_slots_ok:16384")
            });
        }
    }

    /// The URL that names every node.
    pub(crate) fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// The node that serves a slot.
    pub(crate) fn master_of(&self, slot: u16) -> &Server {
        let slots = self.nodes.first().unwrap().cli(&["CLUSTER", "NODES"]);
        let port = slots
            .lines()
            .filter(|line| line.contains("master"))
            .find_map(|line| {
                let serves = line.split(' ').skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    first.parse::<u16>().is_ok_and(|first| first <= slot)
                        && last.parse::<u16>().is_ok_and(|last| slot <= last)
                });
                let place = line.split(' ').nth(1)?.split('@').next()?;
                serves.then(|| place.rsplit(':').next()?.parse::<u16>().ok()).flatten()
            })
            .unwrap();
        self.nodes.iter().find(|node| node.port == port).unwrap()
    }

    /// Moves a slot with everything in it to another node.
    pub(crate) fn move_slot(&self, slot: u16) {
        let from = self.master_of(slot);
        let id = |node: &Server| node.cli(&["CLUSTER", "MYID"]);
        let to =
            self.nodes.iter().find(|node| node.port != from.port && node.info("role") == "master").unwrap();
        let (number, from_id, to_id) = (slot.to_string(), id(from), id(to));
        to.cli(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &from_id]);
        from.cli(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &to_id]);
        loop {
            let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &number, "100"]);
            if keys.is_empty() {
                break;
            }
            let port = to.port.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.lines());
            from.cli(&words);
        }
        for node in &self.nodes {
            if node.info("role") == "master" {
                node.cli(&["CLUSTER", "SETSLOT", &number, "NODE", &to_id]);
            }
        }
    }
}

/// A master, a replica, and three sentinels that watch them under the name `mymaster`.
#[derive(Debug)]
pub(crate) struct Sentinels {
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Sentinels {
    pub(crate) const MASTER: &'static str = "mymaster";

    /// Starts them, and waits until the sentinels know the replica and each other.
    pub(crate) fn start() -> Self {
        let options = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let master = Server::start(&options);
        let port = master.port.to_string();
        let mut more = options.to_vec();
        more.extend(["--replicaof", "127.0.0.1", &port]);
        let replica = Server::start(&more);
        until("the replica has synchronised", || replica.info("master_link_status") == "up");
        let sentinels: Vec<_> = (0..3).map(|_| Self::sentinel(&port)).collect();
        for sentinel in &sentinels {
            until("the sentinels know each other and the replica", || {
                let info = sentinel.try_cli(&["INFO", "sentinel"]);
                info.contains("slaves=1,sentinels=3") && info.contains("status=ok")
            });
        }
        Self { servers: vec![master, replica], sentinels }
    }

    fn sentinel(master: &str) -> Server {
        let kept = tempfile::Builder::new().prefix("checkrein-redis-").tempdir().unwrap();
        let (port, dir) = (free_port(), kept.path().to_owned());
        let name = Self::MASTER;
        let mut text = format!("port {port}\nbind 127.0.0.1\ndir {}\nlogfile log\n", dir.display());
        writeln!(text, "sentinel monitor {name} 127.0.0.1 {master} 2").unwrap();
        writeln!(text, "sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000")
            .unwrap();
        let file = dir.join("sentinel.conf");
        std::fs::write(&file, text).unwrap();
        let mut sentinel = Server {
            port,
            dir,
            options: Vec::new(),
            child: None,
            password: None,
            tls: None,
            kept: Some(kept),
        };
        sentinel.spawn("redis-server", &[file.display().to_string(), "--sentinel".to_owned()]);
        sentinel.wait();
        sentinel
    }

    /// The URL that names the sentinels.
    pub(crate) fn url(&self) -> String {
        let all: Vec<_> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{}", all.join(","), Self::MASTER)
    }

    /// The port of the master, as the sentinels say.
    pub(crate) fn master_port(&self) -> u16 {
        let sentinel = self.sentinels.first().unwrap();
        let said = sentinel.cli(&["SENTINEL", "get-master-addr-by-name", Self::MASTER]);
        said.lines().nth(1).and_then(|port| port.trim().parse().ok()).unwrap()
    }

    /// The master.
    pub(crate) fn master(&mut self) -> &mut Server {
        let port = self.master_port();
        self.servers.iter_mut().find(|server| server.port == port).unwrap()
    }

    /// Has the sentinels put the replica in the master's place, and waits until all agree.
    pub(crate) fn fail_over(&self) {
        let before = self.master_port();
        until("a sentinel starts the failover", || {
            self.sentinels.first().unwrap().try_cli(&["SENTINEL", "FAILOVER", Self::MASTER]) == "OK"
        });
        self.wait_for_another(before);
    }

    /// Waits until the sentinels name another master than this.
    pub(crate) fn wait_for_another(&self, before: u16) {
        for sentinel in &self.sentinels {
            until("the sentinels agree on another master", || {
                let said = sentinel.try_cli(&["SENTINEL", "get-master-addr-by-name", Self::MASTER]);
                said.lines().nth(1).is_some_and(|port| port.trim() != before.to_string())
            });
        }
        // The one before goes on taking writes, which will be lost, until it is told.
        let masters = || self.servers.iter().filter(|server| server.try_cli(&["ROLE"]).starts_with("master"));
        until("only the new master takes itself for one", || {
            masters().all(|server| server.port == self.master_port()) && masters().count() == 1
        });
    }
}

/// A proxy in front of a server that does to connections what networks do.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
    cuts: Arc<AtomicU64>,
}

/// What a proxy does with the answers of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Passes them on.
    Pass,
    /// Passes on so many more, in pieces as they come, and then cuts the connection, so that the request has run and its
    /// answer is lost. Later connections pass.
    CutAfter(u32),
    /// Takes connections and answers nothing.
    Silent,
    /// Hangs up on everybody.
    Refuse,
}

impl Proxy {
    /// A proxy in front of a port on this machine.
    pub(crate) fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (plan, cuts) = (Arc::new(Mutex::new(Plan::Pass)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&plan), Arc::clone(&cuts));
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let (plan, cuts) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                thread::spawn(move || carry(client, to, &plan, &cuts));
            }
        });
        Self { port, plan, cuts }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it does from now on.
    pub(crate) fn set(&self, plan: Plan) {
        *self.plan.lock().unwrap() = plan;
    }

    /// How often it has cut a connection.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

fn carry(client: TcpStream, to: u16, plan: &Mutex<Plan>, cuts: &AtomicU64) {
    if *plan.lock().unwrap() == Plan::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_server.read(&mut buffer) {
        let mut plan = plan.lock().unwrap();
        match *plan {
            Plan::Pass => {}
            Plan::CutAfter(0) | Plan::Refuse => {
                *plan = Plan::Pass;
                cuts.fetch_add(1, Ordering::Relaxed);
                let _ = to_client.shutdown(std::net::Shutdown::Both);
                let _ = from_server.shutdown(std::net::Shutdown::Both);
                return;
            }
            Plan::CutAfter(more) => *plan = Plan::CutAfter(more - 1),
            Plan::Silent => continue,
        }
        drop(plan);
        if to_client.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _ = to_client.shutdown(std::net::Shutdown::Both);
}

/// A text as the answer of a server.
pub(crate) fn bulk(text: &str) -> &'static str {
    Box::leak(format!("${}\r\n{text}\r\n", text.len()).into_boxed_str())
}

/// Something that listens and answers each line it is sent with what is given, so that a test can be the server.
pub(crate) fn impostor(answer: &'static str) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            thread::spawn(move || {
                let mut writer = client.try_clone().unwrap();
                for line in BufReader::new(client).lines() {
                    let Ok(line) = line else { return };
                    if line.starts_with('*') && writer.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}
