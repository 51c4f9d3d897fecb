//! A server beside other processes on one warehouse, its orderly end, and its death.

use crate::support::{Server, World};
use arrow_flight::{
    FlightDescriptor, Ticket,
    decode::FlightRecordBatchStream,
    flight_service_client::FlightServiceClient,
    sql::{CommandStatementQuery, ProstMessageExt},
};
use expect_test::expect;
use futures::TryStreamExt;
use prost::Message;
use std::fs;
use tonic::{Request, Status, transport::Channel};

/// A client with a token.
struct Client {
    channel: FlightServiceClient<Channel>,
    token: String,
}

impl Client {
    async fn connect(server: &Server, token: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
        Self {
            channel: FlightServiceClient::new(channel).max_decoding_message_size(64 << 20),
            token: format!("Bearer {token}"),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.parse().unwrap());
        request
    }

    /// A ticket for a statement.
    async fn ticket(&mut self, text: &str) -> Ticket {
        let command = CommandStatementQuery { query: text.into(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let info = self.channel.get_flight_info(self.request(descriptor)).await.unwrap().into_inner();
        info.endpoint[0].ticket.clone().unwrap()
    }

    /// What a ticket gives.
    async fn redeem(&mut self, ticket: Ticket) -> Result<FlightRecordBatchStream, Status> {
        let answer = self.channel.do_get(self.request(ticket)).await?.into_inner();
        Ok(FlightRecordBatchStream::new_from_flight_data(answer.map_err(Into::into)))
    }

    /// The stream of a statement's answer.
    async fn stream(&mut self, text: &str) -> FlightRecordBatchStream {
        let ticket = self.ticket(text).await;
        self.redeem(ticket).await.unwrap()
    }

    /// How many rows a statement's answer has.
    async fn rows(&mut self, text: &str) -> usize {
        let batches: Vec<_> = self.stream(text).await.try_collect().await.unwrap();
        batches.iter().map(|b| b.num_rows()).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_of_other_processes_are_seen_by_the_next_statement_and_verification_covers_all_writers() {
    let world = World::published();
    let token = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    let server = Server::start(&world);
    let mut client = Client::connect(&server, &token).await;
    let versions = "SELECT version FROM system.catalog.versions WHERE dataset = 'features.patient_profile'";
    assert_eq!(client.rows(versions).await, 1);
    let before = client.rows("SELECT id FROM features.patient_profile").await;

    let view = world.project().join("features/patient_profile.sql");
    let text = fs::read_to_string(&view).unwrap();
    fs::write(&view, text.replace("FROM raw.patients", "FROM raw.patients WHERE id > 50")).unwrap();
    world.run(&["publish", "-m", "beside a server"]).code(0);
    assert_eq!(client.rows(versions).await, 2);
    let after = client.rows("SELECT id FROM features.patient_profile").await;
    assert!(after < before, "{after} of {before} rows");
    assert_eq!(client.rows("SELECT id FROM features.patient_profile VERSION 1").await, before);
    let beside = world.sql("researcher", "SELECT count(*) AS n FROM features.patient_profile");
    assert_eq!(beside, format!("n\n{after}\n"));

    let kept = world.beside("kept");
    fs::write(&kept, world.run(&["ledger", "keep"]).code(0)).unwrap();
    let told = world.run(&["ledger", "verify", "--since", kept.to_str().unwrap()]).code(0);
    // How many entries tell of heads depends on when.
    assert!(told.starts_with("consistent up to ") && told.contains("entries; fresh"), "{told}");
    assert!(told.contains("writer cli-0: ") && told.contains("writer serve: "), "{told}");
    assert_eq!(server.stop(), 0);
    world.run(&["ledger", "verify", "--since", kept.to_str().unwrap()]).code(0);
}

/// Every read that the door has let out something of is an entry, by the ledger's own count.
#[tokio::test(flavor = "multi_thread")]
async fn every_read_seen_by_the_door_is_covered() {
    let world = World::published();
    let ann = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    let auditor = world.token("eve", "audit", "auditor", &[]);
    let server = Server::start(&world);
    let mut client = Client::connect(&server, &ann).await;
    for _ in 0..5 {
        client.rows("SELECT id FROM features.patient_profile").await;
    }
    let mut client = Client::connect(&server, &auditor).await;
    let text = "SELECT metric FROM system.metrics.slo WHERE metric = 'audit_coverage_percent' AND value = 100 AND ok";
    assert_eq!(client.rows(text).await, 1);
    assert_eq!(client.rows("SELECT metric FROM system.metrics.slo WHERE NOT ok").await, 0);
    assert_eq!(server.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_running_stream_end_and_leaves_success() {
    let world = World::published();
    let token = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    let server = Server::start(&world);
    let mut client = Client::connect(&server, &token).await;
    let text = "SELECT a.value, b.value FROM raw.labs AS a CROSS JOIN raw.labs AS b LIMIT 2000000";
    let mut stream = client.stream(text).await;
    let mut rows = stream.try_next().await.unwrap().unwrap().num_rows();
    let stopped = tokio::task::spawn_blocking(move || server.stop());
    while let Some(batch) = stream.try_next().await.unwrap() {
        rows += batch.num_rows();
    }
    assert_eq!(rows, 2_000_000);
    drop((stream, client));
    assert_eq!(stopped.await.unwrap(), 0);
    let audit = "SELECT outcome, rows FROM system.access.audit WHERE action = 'read' AND dataset = 'raw.labs'";
    assert_eq!(world.sql("auditor", audit), "outcome,rows\nsuccess,2000000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_a_stream_leaves_an_upper_bound() {
    let world = World::published();
    let token = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    let kept = world.beside("kept");
    fs::write(&kept, world.run(&["ledger", "keep"]).code(0)).unwrap();
    let server = Server::start(&world);
    let mut client = Client::connect(&server, &token).await;
    assert_eq!(client.rows("SELECT id FROM raw.labs LIMIT 3").await, 3);
    let mut stream = client.stream("SELECT a.value, b.value FROM raw.labs AS a CROSS JOIN raw.labs AS b").await;
    let (mut rows, mut bytes) = (0, 0);
    while rows < 1_000_000 {
        let batch = stream.try_next().await.unwrap().unwrap();
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
    }
    server.kill();
    while let Ok(Some(batch)) = stream.try_next().await {
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
    }

    // A new server, and nobody's help.
    let server = Server::start(&world);
    let audit = "SELECT outcome, code, upper_bound, rows, bytes FROM system.access.audit \
                 WHERE action = 'read' AND dataset = 'raw.labs' AND part = 0 ORDER BY writer, seq";
    let told = world.sql("auditor", audit);
    let lines: Vec<_> = told.lines().collect();
    let [_, first, crashed] = lines[..] else { panic!("{told}") };
    assert!(first.starts_with("success,,false,3,"), "{told}");
    assert!(crashed.starts_with("unknown,unknown_crash,true,"), "{told}");
    let bound: usize = crashed.rsplit(',').next().unwrap().parse().unwrap();
    assert!(bound >= bytes, "the bound is {bound} bytes, {bytes} in {rows} rows arrived");
    world.run(&["ledger", "verify", "--since", kept.to_str().unwrap()]).code(0);
    assert_eq!(server.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_serves_whom_it_was_issued_to_and_under_the_policy_it_was_issued_under() {
    let world = World::published();
    let ann = world.token("ann", "research", "research", &["--attr", "region=eu"]);
    let bob = world.token("bob", "research", "research", &["--attr", "region=eu"]);
    let server = Server::start(&world);
    let (mut ann, mut bob) = (Client::connect(&server, &ann).await, Client::connect(&server, &bob).await);
    let ticket = ann.ticket("SELECT id FROM features.patient_profile").await;
    let mut altered = ticket.ticket.to_vec();
    altered[20] ^= 1;
    let altered = Ticket { ticket: altered.into() };
    let mut told = vec![];
    for refused in [bob.redeem(ticket.clone()).await, ann.redeem(altered).await] {
        told.push(refused.err().unwrap().message().to_string());
    }
    let text = "C3004 this ticket is not valid here; help: ask for a new one: GetFlightInfo";
    assert_eq!(told, [text, text]);
    let rows: Vec<_> = ann.redeem(ticket.clone()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(rows.iter().map(|b| b.num_rows()).sum::<usize>(), 52);

    // Research may no longer see people of the eu.
    let policies = world.project().join("policies/clinic.cedar");
    let rules = fs::read_to_string(&policies).unwrap();
    fs::write(&policies, rules.replace("contains(\"eu\")", "contains(\"nowhere\")")).unwrap();
    world.run(&["policy", "apply", "-m", "narrower"]).code(0);
    let changed = ann.redeem(ticket).await.err().unwrap();
    assert_eq!(changed.code(), tonic::Code::Aborted, "{}", changed.message());
    let denials = "SELECT action, principal, code, decision, rows FROM system.access.audit \
                   WHERE action IN ('bypass', 'deny') ORDER BY writer, seq";
    expect![[r#"
        action,principal,code,decision,rows
        bypass,bob,foreign_ticket,deny,
        bypass,ann,altered_ticket,deny,
        deny,ann,C3301,deny,
    "#]]
    .assert_eq(&world.sql("auditor", denials));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_without_a_token_is_counted_and_does_not_fill_the_ledger() {
    let world = World::published();
    let server = Server::start(&world);
    let mut client = Client::connect(&server, "nonsense").await;
    for _ in 0..230 {
        let descriptor = FlightDescriptor::new_path(vec!["features".into(), "lab_trend@1".into()]);
        let refused = client.channel.get_flight_info(client.request(descriptor)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert!(refused.message().starts_with("C3001 no valid token"), "{}", refused.message());
    }
    assert_eq!(server.stop(), 0);
    let denials = "SELECT count(*) AS entries FROM system.access.audit WHERE action = 'deny'";
    // A hundred of their own, and one for all others; slower than a minute, a few more.
    let entries: usize = world.sql("auditor", denials).lines().nth(1).unwrap().parse().unwrap();
    assert!((101..=200).contains(&entries), "{entries}");
}

#[test]
fn plaintext_is_served_on_loopback_only() {
    let world = World::published();
    let ran = world.run(&["serve", "--bind", "0.0.0.0:0"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("refusing to serve 0.0.0.0 without TLS"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_several_purposes_must_say_which() {
    let world = World::published();
    let token = world.token("ann", "research", "research", &["--attr", "region=eu", "--also", "audit"]);
    let server = Server::start(&world);
    let mut client = Client::connect(&server, &token).await;
    let ask = |client: &Client, purpose: Option<&str>| {
        let descriptor = FlightDescriptor::new_path(vec!["features".into(), "patient_profile@1".into()]);
        let mut request = client.request(descriptor);
        if let Some(purpose) = purpose {
            request.metadata_mut().insert("x-purpose", purpose.parse().unwrap());
        }
        request
    };
    for (purpose, want) in [(None, "C3003 no purpose given"), (Some("billing"), "C3002 purpose `billing` is not among")]
    {
        let refused = client.channel.get_flight_info(ask(&client, purpose)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().starts_with(want), "{}", refused.message());
    }
    client.channel.get_flight_info(ask(&client, Some("research"))).await.unwrap();
    assert_eq!(server.stop(), 0);
}

/// What a model is given is on record by prediction: which versions, how far from what it learned from, and what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn predictions_are_recorded_and_what_they_were_made_from_is_held_against_what_the_model_learned() {
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let artifact = world.beside("model.bin").to_str().unwrap().to_string();
    let receipt = world.beside("model.dsse").to_str().unwrap().to_string();
    fs::write(&artifact, "coefficients").unwrap();
    let register = ["model", "register", "mortality", "--training-set", "training.mortality@1"];
    world.run(&[&register[..], &["--artifact", &artifact, "--receipt", &receipt, "-m", "first"]].concat()).code(0);
    let view = world.project().join("features/lab_trend.sql");
    let text = fs::read_to_string(&view).unwrap();
    // Its owner is whoever publishes now, and sees who reads it.
    let text = text.replace("  OWNER hepatology\n", "");
    let text = text.replace("avg(value) FILTER (WHERE test = 'hdl')", "3 * avg(value) FILTER (WHERE test = 'hdl')");
    fs::write(&view, text).unwrap();
    fs::create_dir_all(world.project().join("raw/outcomes")).unwrap();
    fs::write(
        world.project().join("raw/outcomes/1.csv"),
        "prediction_id,seen,died\np-1,2026-01-01T00:00:00Z,true\np-9,2026-01-01T00:00:00Z,false\n",
    )
    .unwrap();
    fs::write(
        world.project().join("sources/outcomes.sql"),
        "CREATE SOURCE outcomes.mortality (prediction_id VARCHAR NOT NULL, seen TIMESTAMP, died BOOLEAN) \
         FROM CSV 'raw/outcomes' ENTITY prediction (prediction_id) EVENT TIME seen;",
    )
    .unwrap();
    world.run(&["publish", "-m", "another unit"]).code(0);

    let model = ["--attr", "region=eu", "--kind", "service", "--model", "mortality@1"];
    let token = world.token("scorer", "research", "research", &model);
    let server = Server::start(&world);
    let mut client = Client::connect(&server, &token).await;
    for (id, text) in [
        ("p-1", "SELECT * FROM features.lab_trend VERSION 1"),
        ("p-2", "SELECT id, hdl_mean_2y FROM features.lab_trend"),
        ("p-3", "SELECT id, hdl_mean_2y FROM features.lab_trend"),
    ] {
        let ticket = client.ticket(text).await;
        let mut ticket = client.request(ticket);
        ticket.metadata_mut().insert("x-prediction", id.parse().unwrap());
        let answer = client.channel.do_get(ticket).await.unwrap().into_inner();
        let rows: Vec<_> =
            FlightRecordBatchStream::new_from_flight_data(answer.map_err(Into::into)).try_collect().await.unwrap();
        assert!(!rows.is_empty());
    }
    let ticket = client.ticket("SELECT id FROM features.lab_trend").await;
    let mut wrong = client.request(ticket);
    wrong.metadata_mut().insert("x-prediction", "of Ann Smith".parse().unwrap());
    let refused = client.channel.do_get(wrong).await.unwrap_err();
    assert!(refused.message().starts_with("C1158"), "{refused}");
    server.stop();

    let csv = |who: &[&str], text: &str| world.run(&[who, &["--format", "csv", "sql", "-c", text]].concat()).code(0);
    let all = "SELECT prediction_id, model, model_version, dataset, dataset_version FROM system.ml.predictions ORDER BY prediction_id";
    assert_eq!(
        world.sql("auditor", all),
        "prediction_id,model,model_version,dataset,dataset_version\np-1,mortality,1,features.lab_trend,1\n\
         p-2,mortality,1,features.lab_trend,2\np-3,mortality,1,features.lab_trend,2\n"
    );
    // Nobody else learns who was predicted about.
    assert_eq!(world.sql("researcher", "SELECT prediction_id FROM system.ml.predictions"), "prediction_id\n");
    let drift = "SELECT model, feature, dataset_version, predictions, psi > 0.2 AS apart, state FROM system.ml.drift \
                 WHERE feature = 'hdl_mean_2y' ORDER BY dataset_version";
    assert_eq!(world.sql("researcher", drift), "model,feature,dataset_version,predictions,apart,state\n");
    let told = csv(&[], drift);
    assert!(told.contains("mortality,hdl_mean_2y,2,2,true,apart\n"), "{told}");
    // A prediction at the desk, and what came of the others.
    world.run(&["sql", "--prediction", "p-4", "-c", "SELECT id FROM features.lab_trend LIMIT 1"]).code(0);
    world.run(&["sql", "--prediction", "", "-c", "SELECT id FROM features.lab_trend LIMIT 1"]).code(1);
    let came = "SELECT p.prediction_id, p.model, o.died FROM system.ml.predictions AS p \
                LEFT JOIN outcomes.mortality AS o ON o.prediction_id = p.prediction_id ORDER BY p.prediction_id";
    let came = csv(&[], came);
    assert!(came.contains("p-1,mortality,true\n") && came.contains("p-4,,\n"), "{came}");
}
