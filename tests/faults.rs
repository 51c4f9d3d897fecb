//! A server that dies at any moment, and one whose disk is full: what left is never more than what durable entries allow,
//! and nothing that was acknowledged is lost.

use crate::support::{World, copy};
use arrow_flight::{
    FlightDescriptor, Ticket,
    flight_service_client::FlightServiceClient,
    sql::{CommandStatementQuery, ProstMessageExt},
};
use prost::Message;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tonic::{Code, Request, Status, transport::Channel};

/// Small grants and small segments: many entries, and several segments, in a short run.
const SETTINGS: &str = "\n[ledger]\ngrant_bytes = 262144\nsegment_bytes = 1048576\n";
/// About three megabytes.
const LONG: &str = "SELECT a.value, b.value AS other FROM raw.labs AS a CROSS JOIN raw.labs AS b LIMIT 200000";
const SHORT: &str = "SELECT id FROM features.patient_profile";
/// Refused by policy for whoever has purpose `research` alone.
const REFUSED: &str = "SELECT * FROM features.no_such_view";

fn world() -> World {
    let world = World::published();
    let file = world.project().join("custody.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + SETTINGS).unwrap();
    world
}

/// A server in a process group of its own, perhaps under strace.
struct Server {
    child: Child,
    address: Option<String>,
    /// What it said first.
    said: String,
}

impl Server {
    /// `through`: a program with its options that runs the server. The address is missing where the server died before
    /// it listened.
    fn start(world: &World, through: &[String]) -> Self {
        let binary = env!("CARGO_BIN_EXE_custody").to_string();
        let words = [through, &[binary]].concat();
        let mut command = Command::new(&words[0]);
        world.environment(&mut command);
        command.args(&words[1..]).args(["serve", "--bind", "127.0.0.1:0"]);
        command.stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        Self { child, address: line.trim().strip_prefix("serving ").map(String::from), said: line }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }

    fn stop(&mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How an answer ended, as the client saw it.
#[derive(Debug, PartialEq)]
enum End {
    Whole,
    Cancelled,
    Failed(Code, String),
}

/// What a client has in hand of one read.
#[derive(Debug)]
struct Answer {
    /// The header `x-audit-receipt`.
    receipt: Option<String>,
    /// Encoded bytes of all messages, as the door counts them.
    bytes: u64,
    end: End,
}

#[derive(Clone)]
struct Client {
    channel: FlightServiceClient<Channel>,
    token: String,
}

impl Client {
    async fn connect(address: &str, token: &str) -> Option<Self> {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.ok()?;
        Some(Self { channel: FlightServiceClient::new(channel), token: format!("Bearer {token}") })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.parse().unwrap());
        request
    }

    async fn ticket(&mut self, text: &str) -> Result<Ticket, Status> {
        let command = CommandStatementQuery { query: text.into(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let info = self.channel.get_flight_info(self.request(descriptor)).await?.into_inner();
        Ok(info.endpoint[0].ticket.clone().unwrap())
    }

    /// Redeems a ticket; `most`: goes away after so many messages. Every message counts in `seen`.
    async fn redeem(&mut self, ticket: Ticket, most: usize, seen: &AtomicU64) -> Answer {
        let failed = |status: Status| End::Failed(status.code(), status.message().to_string());
        let mut response = match self.channel.do_get(self.request(ticket)).await {
            Ok(response) => response,
            Err(status) => return Answer { receipt: None, bytes: 0, end: failed(status) },
        };
        let receipt = response.metadata().get("x-audit-receipt").map(|v| v.to_str().unwrap().to_string());
        let (stream, mut bytes, mut messages) = (response.get_mut(), 0, 0);
        let end = loop {
            match stream.message().await {
                Ok(Some(data)) => {
                    bytes += (data.data_header.len() + data.data_body.len()) as u64;
                    messages += 1;
                    seen.fetch_add(1, SeqCst);
                    if messages >= most {
                        break End::Cancelled;
                    }
                }
                Ok(None) => break End::Whole,
                Err(status) => break failed(status),
            }
        };
        Answer { receipt, bytes, end }
    }
}

/// What clients got acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    answers: Vec<Answer>,
    /// Tickets handed out: each has an entry of its own.
    tickets: usize,
    /// Refusals with a custody code.
    denials: usize,
}

/// Three clients at once, each with long, short, abandoned and refused reads, until the server is gone or all is asked.
async fn ask(address: &str, token: &str, rounds: usize, seen: &Arc<AtomicU64>) -> Acknowledged {
    let mut tasks = vec![];
    for n in 0..3 {
        let Some(mut client) = Client::connect(address, token).await else { continue };
        let seen = Arc::clone(seen);
        tasks.push(tokio::spawn(async move {
            let mut got = Acknowledged::default();
            for round in 0..rounds {
                let (text, most) = match (n + round) % 4 {
                    0 => (LONG, usize::MAX),
                    1 => (SHORT, usize::MAX),
                    2 => (LONG, 5),
                    _ => (REFUSED, usize::MAX),
                };
                match client.ticket(text).await {
                    Ok(ticket) => {
                        got.tickets += 1;
                        let answer = client.redeem(ticket, most, &seen).await;
                        let gone = matches!(answer.end, End::Failed(..));
                        got.answers.push(answer);
                        if gone {
                            break;
                        }
                    }
                    // A code of ours: the refusal is recorded before it is told.
                    Err(status) if status.message().starts_with('C') => got.denials += 1,
                    Err(_) => break,
                }
            }
            got
        }));
    }
    let mut all = Acknowledged::default();
    for task in tasks {
        let got = task.await.unwrap();
        all.answers.extend(got.answers);
        all.tickets += got.tickets;
        all.denials += got.denials;
    }
    all
}

/// What the ledger says of a read, by its receipt: outcome, bytes.
fn audited(world: &World) -> (BTreeMap<String, (String, u64)>, usize, usize) {
    let text =
        "SELECT writer, seq, action, outcome, bytes FROM system.access.audit WHERE writer = 'serve' AND part = 0";
    let told = world.sql("auditor", text);
    let (mut reads, mut metadata, mut denials) = (BTreeMap::new(), 0, 0);
    for line in told.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let [writer, seq, action, outcome, bytes] = cells[..] else { panic!("{line}") };
        match action {
            "read" => {
                reads.insert(format!("{writer}/{seq}"), (outcome.to_string(), bytes.parse().unwrap_or(0)));
            }
            "metadata" => metadata += 1,
            "deny" => denials += 1,
            _ => {}
        }
    }
    (reads, metadata, denials)
}

/// Figures of a run, to be summed.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    kills: u64,
    answers: u64,
    bytes: u64,
    cut: u64,
}

/// Everything that was acknowledged is there, and nothing left beyond what entries allow.
#[track_caller]
fn holds(world: &World, got: &Acknowledged, place: &str) -> Figures {
    // Opening ends what the dead server left open.
    let (reads, metadata, denials) = audited(world);
    let mut figures = Figures { kills: 1, ..Figures::default() };
    for answer in &got.answers {
        figures.answers += 1;
        figures.bytes += answer.bytes;
        let Some(receipt) = &answer.receipt else {
            assert_eq!(answer.bytes, 0, "{place}: bytes without a receipt: {answer:?}");
            continue;
        };
        let (outcome, bytes) = reads.get(receipt).unwrap_or_else(|| panic!("{place}: {answer:?} has no entry"));
        assert!(*bytes >= answer.bytes, "{place}: {answer:?} has more than the ledger allows: {bytes}");
        match answer.end {
            End::Whole => assert_eq!((outcome.as_str(), *bytes), ("success", answer.bytes), "{place}: {answer:?}"),
            End::Cancelled | End::Failed(..) => figures.cut += 1,
        }
    }
    assert!(metadata >= got.tickets, "{place}: {metadata} entries for {} tickets", got.tickets);
    assert!(denials >= got.denials, "{place}: {denials} entries for {} refusals", got.denials);
    let pending = reads.values().filter(|(outcome, _)| outcome == "pending").count();
    assert_eq!(pending, 0, "{place}: reads without an outcome");
    let kept = world.beside("kept");
    world.run(&["ledger", "verify", "--since", kept.to_str().unwrap()]).code(0);
    figures
}

/// A world whose ledger was kept, and a token for it.
fn prepared() -> (World, String) {
    let world = world();
    let token = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    fs::write(world.beside("kept"), world.run(&["ledger", "keep"]).code(0)).unwrap();
    (world, token)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Kills the server once clients have seen so many messages.
fn killed_after(messages: u64) -> Figures {
    let (world, token) = prepared();
    let mut server = Server::start(&world, &[]);
    let address = server.address.clone().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let got = runtime().block_on(async {
        let asking = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move { ask(&address, &token, 40, &seen).await }
        });
        while seen.load(SeqCst) < messages && !asking.is_finished() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        server.kill();
        asking.await.unwrap()
    });
    holds(&world, &got, &format!("killed after {messages} messages"))
}

/// Kills the server before the n-th system call of a kind. `None`: it does not make so many.
fn killed_before(calls: &str, number: usize) -> Option<Figures> {
    let (world, token) = prepared();
    let options = format!("strace -f -qq -o /dev/null -e trace={calls} -e inject={calls}:signal=SIGKILL:when={number}");
    let mut server = Server::start(&world, &options.split(' ').map(String::from).collect::<Vec<_>>());
    let seen = Arc::default();
    let got = match server.address.clone() {
        Some(address) => runtime().block_on(ask(&address, &token, 8, &seen)),
        None => Acknowledged::default(),
    };
    // The last call of a thread may be a checkpoint's, after all is answered.
    let began = Instant::now();
    while server.is_running() && began.elapsed() < Duration::from_millis(1_300) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = !server.is_running();
    server.kill();
    let figures = holds(&world, &got, &format!("killed before {calls} number {number}"));
    killed.then_some(figures)
}

fn has_strace() -> bool {
    let ran = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    let has = ran.is_ok_and(|o| o.status.success());
    if !has {
        eprintln!("skipped: no strace, or no permission to trace");
    }
    has
}

#[test]
fn a_server_killed_at_any_message_released_what_its_entries_allow() {
    let mut cut = 0;
    for messages in [1, 7, 30, 90] {
        cut += killed_after(messages).cut;
    }
    assert!(cut > 0, "no read was under way when the server died");
}

#[test]
fn a_server_killed_before_a_system_call_released_what_its_entries_allow() {
    if !has_strace() {
        return;
    }
    let points = [("pwrite64", 9), ("pwrite64", 16), ("fdatasync", 12), ("fsync", 25), (SEND, 12), (SEND, 60)];
    let killed = points.iter().filter(|(calls, number)| killed_before(calls, *number).is_some()).count();
    assert!(killed >= 4, "{killed} of {} kills came", points.len());
}

/// What brings bytes to the client: a kill before it is one after the entry is durable and before the data has left.
const SEND: &str = "writev,sendto,sendmsg";

/// Every system call of a server that records or releases, as the one before which it dies. `CUSTODY_SHARD=i/n` takes
/// every n-th one.
#[test]
#[ignore = "an hour; needs strace"]
fn a_server_killed_before_every_system_call() {
    let shard = std::env::var("CUSTODY_SHARD").unwrap_or_else(|_| "0/1".into());
    let (first, step) = shard.split_once('/').map(|(i, n)| (i.parse::<usize>().unwrap(), n.parse().unwrap())).unwrap();
    for calls in ["pwrite64", "fdatasync", "fsync", "rename", "linkat,link", "write", SEND] {
        let mut all = Figures::default();
        for number in (first + 1..).step_by(step) {
            let Some(figures) = killed_before(calls, number) else { break };
            all.kills += 1;
            all.answers += figures.answers;
            all.bytes += figures.bytes;
            all.cut += figures.cut;
        }
        println!("{calls}: {all:?}");
    }
}

/// A small file system in memory, in a mount namespace of its own, which lives as long as this does.
struct SmallDisk {
    holder: Child,
    path: PathBuf,
}

impl SmallDisk {
    /// `None`: this machine does not let its users mount.
    fn new(megabytes: u64) -> Option<Self> {
        let script = format!("mount -t tmpfs -o size={megabytes}m tmpfs /mnt && echo ready && exec sleep 100000");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        let Ok(mut holder) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
            eprintln!("skipped: no unshare");
            return None;
        };
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let path = PathBuf::from(format!("/proc/{}/root/mnt", holder.id()));
        if line.trim() != "ready" {
            let _ = holder.kill();
            let _ = holder.wait();
            eprintln!("skipped: mounting is not permitted");
            return None;
        }
        Some(Self { holder, path })
    }

    /// Runs a program where this disk is `/mnt`.
    fn inside(&self, world: &World) -> Vec<String> {
        let project = world.project().display();
        let options = format!("nsenter --user --mount --preserve-credentials --wd={project} -t {}", self.holder.id());
        options.split(' ').map(String::from).collect()
    }

    /// Takes all space that is left.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.path.join("ballast")).unwrap();
        for block in [1 << 16, 4096, 1] {
            while ballast.write_all(&vec![1; block]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.path.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// On a full disk no read begins and a running one stops at its byte grant, with `UNAVAILABLE`; when there is space again
/// the same process serves, what it owed is recorded, and no sequence number is missing.
#[test]
fn a_full_disk_stops_reads_with_unavailable_and_the_same_server_goes_on() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let (world, token) = prepared();
    let (warehouse, moved) = (world.project().join("warehouse"), disk.path.join("warehouse"));
    copy(&warehouse, &moved);
    fs::remove_dir_all(&warehouse).unwrap();
    std::os::unix::fs::symlink("/mnt/warehouse", &warehouse).unwrap();
    let mut server = Server::start(&world, &disk.inside(&world));
    let address = server.address.clone().unwrap_or_else(|| panic!("no server: {}", server.said));
    let (mut got, refused) = runtime().block_on(async {
        let mut got = Acknowledged::default();
        let seen = AtomicU64::new(0);
        let mut client = Client::connect(&address, &token).await.unwrap();
        let ticket = client.ticket(SHORT).await.unwrap();
        got.answers.push(client.redeem(ticket, usize::MAX, &seen).await);
        assert_eq!(got.answers[0].end, End::Whole);

        // A read is under way: it has its ticket, its first message, and nobody takes the next ones.
        let mut waiting = client.clone();
        let ticket = waiting.ticket(LONG).await.unwrap();
        let running = waiting.channel.do_get(waiting.request(ticket)).await.unwrap();
        disk.fill();

        // The segment in use has room for some entries, which long statements take up.
        let padding = "x".repeat(30_000);
        let text = format!("SELECT id FROM features.patient_profile WHERE '{padding}' <> ''");
        let mut refused = vec![];
        for _ in 0..400 {
            match client.ticket(&text).await {
                Ok(ticket) => {
                    let answer = client.redeem(ticket, usize::MAX, &seen).await;
                    if let End::Failed(code, message) = &answer.end {
                        refused.push((*code, message.clone(), answer.bytes));
                    }
                    got.answers.push(answer);
                }
                Err(status) => refused.push((status.code(), status.message().to_string(), 0)),
            }
            if refused.len() >= 20 {
                break;
            }
        }
        let receipt = running.metadata().get("x-audit-receipt").map(|v| v.to_str().unwrap().to_string());
        let (mut stream, mut bytes) = (running.into_inner(), 0);
        let end = loop {
            match stream.message().await {
                Ok(Some(data)) => bytes += (data.data_header.len() + data.data_body.len()) as u64,
                Ok(None) => break End::Whole,
                Err(status) => break End::Failed(status.code(), status.message().to_string()),
            }
        };
        got.answers.push(Answer { receipt, bytes, end });
        (got, refused)
    });
    assert!(refused.len() >= 20, "the disk was not full: {refused:?}");
    for (code, message, bytes) in &refused {
        assert_eq!((*code, *bytes), (Code::Unavailable, 0), "{message}");
        assert!(message.starts_with("C7002") || message.starts_with("C7004"), "{message}");
    }
    let stopped = got.answers.last().unwrap();
    assert!(matches!(stopped.end, End::Failed(Code::Unavailable, _)), "{stopped:?}");
    assert!(stopped.bytes < 3_000_000, "the running read went on: {stopped:?}");

    disk.free();
    got.answers.push(served_again(&address, &token));
    assert!(server.is_running(), "the same server goes on");
    assert_eq!(server.stop(), 0);
    fs::remove_file(&warehouse).unwrap();
    copy(&moved, &warehouse);
    holds(&world, &got, "a full disk");
    let gaps = "SELECT count(*) = max(seq) + 1 AS dense FROM system.ledger.entries WHERE writer = 'serve'";
    assert_eq!(world.sql("auditor", gaps), "dense\ntrue\n");
}

/// A running server whose syncs fail with EIO for as long as this lives.
struct FailingSyncs(Child);

impl FailingSyncs {
    fn of(server: &Server) -> Self {
        let options = "-f -qq -o /dev/null -e trace=fdatasync,fsync -e inject=fdatasync,fsync:error=EIO -p";
        let pid = server.child.id();
        let mut command = Command::new("strace");
        command.args(options.split(' ')).arg(pid.to_string()).stderr(Stdio::null());
        let failing = Self(command.spawn().unwrap());
        failing.wait_until(pid, true);
        failing
    }

    /// Waits until every thread of the process is traced, or none is.
    fn wait_until(&self, pid: u32, traced: bool) {
        let began = Instant::now();
        let tracer = |task: std::io::Result<fs::DirEntry>| {
            let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            Some(status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
        };
        while fs::read_dir(format!("/proc/{pid}/task")).unwrap().filter_map(tracer).any(|is| is != traced) {
            assert!(began.elapsed() < Duration::from_secs(20), "strace: traced is not {traced}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(mut self, server: &Server) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap();
        self.wait_until(server.child.id(), false);
    }
}

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// While syncs fail no read begins and a running one stops at its byte grant, with `UNAVAILABLE`; when they succeed again
/// the same process serves, what it owed is recorded, and no sequence number is missing.
#[test]
fn failing_syncs_stop_reads_with_unavailable_and_the_same_server_goes_on() {
    if !has_strace() {
        return;
    }
    let (world, token) = prepared();
    let mut server = Server::start(&world, &[]);
    let address = server.address.clone().unwrap_or_else(|| panic!("no server: {}", server.said));
    let mut got = Acknowledged::default();
    // Twice: a chain that gave up once does so again.
    for round in 0..2 {
        let (refused, stopped) = runtime().block_on(async {
            let seen = AtomicU64::new(0);
            let mut client = Client::connect(&address, &token).await.unwrap();
            let (ticket, long) = (client.ticket(SHORT).await.unwrap(), client.ticket(LONG).await.unwrap());
            let first = client.ticket(SHORT).await.unwrap();
            got.answers.push(client.redeem(first, usize::MAX, &seen).await);
            assert_eq!(got.answers.last().unwrap().end, End::Whole);
            let mut waiting = client.clone();
            let running = waiting.channel.do_get(waiting.request(long)).await.unwrap();

            let failing = FailingSyncs::of(&server);
            let mut refused = vec![];
            for _ in 0..10 {
                // A new statement, and a ticket from before: neither gets anything.
                let status = client.ticket(SHORT).await.unwrap_err();
                refused.push((status.code(), status.message().to_string(), 0));
                match client.redeem(ticket.clone(), usize::MAX, &seen).await {
                    Answer { end: End::Failed(code, message), bytes, .. } => refused.push((code, message, bytes)),
                    answer => panic!("{answer:?}"),
                }
            }
            let receipt = running.metadata().get("x-audit-receipt").map(|v| v.to_str().unwrap().to_string());
            let (mut stream, mut bytes) = (running.into_inner(), 0);
            let end = loop {
                match stream.message().await {
                    Ok(Some(data)) => bytes += (data.data_header.len() + data.data_body.len()) as u64,
                    Ok(None) => break End::Whole,
                    Err(status) => break End::Failed(status.code(), status.message().to_string()),
                }
            };
            failing.end(&server);
            (refused, Answer { receipt, bytes, end })
        });
        for (code, message, bytes) in &refused {
            assert_eq!((*code, *bytes), (Code::Unavailable, 0), "round {round}: {message}");
            assert!(message.starts_with("C700"), "{message}");
        }
        assert!(matches!(stopped.end, End::Failed(Code::Unavailable, _)), "{stopped:?}");
        assert!(stopped.bytes < 3_000_000, "the running read went on: {stopped:?}");
        got.answers.push(stopped);
        got.answers.push(served_again(&address, &token));
    }
    assert!(server.is_running(), "the same server goes on");
    assert_eq!(server.stop(), 0);
    holds(&world, &got, "failing syncs");
    let gaps = "SELECT count(*) = max(seq) + 1 AS dense FROM system.ledger.entries WHERE writer = 'serve'";
    assert_eq!(world.sql("auditor", gaps), "dense\ntrue\n");
}

/// A read of the same server, once it serves again.
#[track_caller]
fn served_again(address: &str, token: &str) -> Answer {
    let began = Instant::now();
    let again = runtime().block_on(async {
        loop {
            let mut client = Client::connect(address, token).await.unwrap();
            match client.ticket(SHORT).await {
                Ok(ticket) => break client.redeem(ticket, usize::MAX, &AtomicU64::new(0)).await,
                Err(_) if began.elapsed() < Duration::from_secs(20) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => panic!("the server does not go on: {status}"),
            }
        }
    });
    assert_eq!(again.end, End::Whole, "{again:?}");
    again
}

/// Every read of the tables that `ask` reads needs an entry in two places.
fn with_peer(world: &World, command: &str) {
    let file = world.project().join("custody.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + &format!("peer = '{command}'\n")).unwrap();
    let rules = "CREATE DURABILITY peer ON raw.labs;\nCREATE DURABILITY peer ON features.patient_profile;\n";
    fs::write(world.project().join("policies/durability.sql"), rules).unwrap();
    world.run(&["policy", "apply", "-m", "two places"]).code(0);
}

/// Waits until the process that keeps the copy has ended.
fn copy_is_closed(mirror: &std::path::Path) {
    let lock = fs::File::open(mirror.join("w/serve/LOCK")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
}

/// The drill: the server is killed in the middle of its work, its disk is lost, and the copy becomes the ledger. Every
/// read of class `peer` whose bytes a client has is there, with what it was allowed.
#[test]
fn with_a_second_copy_nothing_acknowledged_is_lost_with_the_first() {
    let world = world();
    let (mirror, binary) = (world.beside("mirror"), env!("CARGO_BIN_EXE_custody"));
    with_peer(&world, &format!("exec {binary} ledger peer --into {}", mirror.display()));
    let token = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    for messages in [3, 40] {
        fs::write(world.beside("kept"), world.run(&["ledger", "keep"]).code(0)).unwrap();
        let mut server = Server::start(&world, &[]);
        let address = server.address.clone().unwrap_or_else(|| panic!("no server: {}", server.said));
        let seen = Arc::new(AtomicU64::new(0));
        let mut got = runtime().block_on(async {
            let asking = tokio::spawn({
                let (seen, token) = (Arc::clone(&seen), token.clone());
                async move { ask(&address, &token, 40, &seen).await }
            });
            while seen.load(SeqCst) < messages && !asking.is_finished() {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            // The server alone: the process that keeps the copy lives on and syncs what it was given.
            server.child.kill().unwrap();
            asking.await.unwrap()
        });
        copy_is_closed(&mirror);
        fs::remove_dir_all(world.project().join("warehouse/ledger")).unwrap();
        let told = world.run(&["ledger", "replicate", "--from", mirror.to_str().unwrap()]).code(0);
        assert!(told.contains("freshness unproven"), "{told}");
        // Tickets and refusals are entries of class `local`: they may be lost with the first copy.
        (got.tickets, got.denials) = (0, 0);
        assert!(got.answers.iter().any(|a| a.bytes > 0), "{got:?}");
        let figures = holds(&world, &got, &format!("lost after {messages} messages"));
        assert!(figures.cut > 0, "no read was under way: {figures:?}");
    }
    let drilled = world.run(&["ledger", "drill", "--mirror", mirror.to_str().unwrap()]).code(0);
    assert!(drilled.contains("recovery point: 0 entries are not in the copy"), "{drilled}");
}

/// Without the second copy no read of class `peer` begins; when it is back, the same server serves.
#[test]
fn without_the_second_copy_reads_of_its_class_are_unavailable() {
    let world = world();
    let (mirror, binary, gate) = (world.beside("mirror"), env!("CARGO_BIN_EXE_custody"), world.beside("gate"));
    let (into, gate) = (mirror.display(), gate.display());
    with_peer(&world, &format!("test -e {gate} && echo $$ > {gate} && exec {binary} ledger peer --into {into}"));
    let token = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    let mut server = Server::start(&world, &[]);
    let address = server.address.clone().unwrap_or_else(|| panic!("no server: {}", server.said));
    let gate = world.beside("gate");
    let seen = AtomicU64::new(0);
    runtime().block_on(async {
        let mut client = Client::connect(&address, &token).await.unwrap();
        let mut read = async || {
            let ticket = client.ticket(SHORT).await.unwrap();
            client.redeem(ticket, usize::MAX, &seen).await
        };
        for _ in 0..2 {
            let refused = read().await;
            assert_eq!(refused.bytes, 0);
            let End::Failed(code, message) = refused.end else { panic!("a read began") };
            assert!(code == Code::Unavailable && message.starts_with("C7006"), "{message}");
            fs::write(&gate, "").unwrap();
            let began = Instant::now();
            while read().await.end != End::Whole {
                assert!(began.elapsed() < Duration::from_secs(20), "the copy does not come back");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // The other process dies.
            let id: i32 = fs::read_to_string(&gate).unwrap().trim().parse().unwrap();
            fs::remove_file(&gate).unwrap();
            kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
        }
    });
    assert!(server.is_running());
    server.stop();
    let kept = "SELECT count(*) AS refused FROM system.access.audit WHERE code = 'refused'";
    assert_ne!(world.sql("auditor", kept), "refused\n0\n");
    world.run(&["ledger", "verify"]).code(8);
}
