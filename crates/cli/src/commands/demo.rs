//! `custody demo`: the whole promise on synthetic data, each step checked. Any step wrong: exit non-zero.

use super::{
    Done, Failed,
    build::{Teller, out},
    init,
};
use crate::{
    arguments::{DemoArgs, Format, OutputArgs},
    context::Context,
    demo::{Size, generate, write_project},
    output,
    settings::StandIn,
};
use arrow::array::RecordBatch;
use arrow_flight::{
    FlightDescriptor, Ticket, decode::FlightRecordBatchStream, flight_service_client::FlightServiceClient,
};
use custody_engine::{
    PublishOptions, ReadRequest, Session, VerifyOptions, audit::WriterChoice, clock::SystemClock, keep_checkpoints,
    verify_ledger,
};
use custody_flight::{ServeOptions, TokenRequest, issue_token, problem_of};
use custody_model::Problem;
use futures::{StreamExt, TryStreamExt};
use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};
use tonic::{metadata::MetadataValue, transport::Channel};

const FEATURE: &str = "patient_profile";
const READERS: [(&str, bool); 4] = [("researcher", true), ("clinician", true), ("trainer", true), ("billing", false)];

pub(crate) async fn run(args: &DemoArgs, quiet: bool) -> Result<Done, Failed> {
    let began = Instant::now();
    let folder = match &args.dir {
        Some(folder) => folder.clone(),
        None => fresh()?,
    };
    title("1  a project and its data");
    std::fs::create_dir_all(&folder).and_then(|()| write_project(&folder)).map_err(|e| unwritable(&e))?;
    let made =
        generate(&folder.join("warehouse").join("raw"), 7, Size::divided(args.divide)).map_err(|e| unwritable(&e))?;
    for (table, rows) in made {
        out(&format!("  raw.{table:<10} {rows:>8} synthetic rows"));
    }
    let root = std::fs::canonicalize(&folder).map_err(|e| unwritable(&e))?;
    let context = Context::at(root, None, None)?;
    init::open_for_business(&context).await?;

    title("2  the features, computed, with lineage and policy decided before anything ran");
    let project = context.project()?;
    let (engine, engineer) = context.session().await?;
    let teller = Teller::new(quiet);
    let options = PublishOptions { because: "the demo's first version".into(), ..PublishOptions::default() };
    let published = engineer.publish(&project, &options, &|e| teller.tell(&e)).await?;
    for version in &published {
        out(&format!("  {}  {:>7} rows  root {}", version.at, version.rows, version.at.content));
    }
    check(published.len() == 4, "four feature views were published")?;
    let again = engineer.publish(&project, &options, &|_| {}).await?;
    check(again.is_empty(), "publishing again computed and published nothing")?;
    let mut tokens = vec![];
    for (name, declared) in context.stand_ins()? {
        tokens.push((name.clone(), issue_token(&engineer, &engine, request(&context, &name, &declared)).await?));
    }
    engine.close().await?;
    let kept = keep_checkpoints(&root_ledger(&context))?;

    title("3  one feature over Arrow Flight, four principals");
    let server = context.open(WriterChoice::Serve).await?;
    let (address, stop, serving) = start(&context, server.clone()).await?;
    let asked = [format!("{FEATURE}@1")];
    let mut denied = 0;
    for (reader, served) in READERS {
        let token = tokens.iter().find(|(n, _)| n == reader).map(|(_, t)| t.as_str()).unwrap_or_default();
        let answer = pull(address, token, &asked[0]).await;
        match (answer, served) {
            (Ok(batches), true) => {
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                out(&format!("  {reader}: {rows} rows of features.{FEATURE}@1"));
                show(&batches)?;
            }
            (Err(problem), false) => {
                denied += 1;
                out(&format!("  {reader}: {problem}"));
            }
            (Ok(_), false) => return Err(wrong(&format!("`{reader}` should have been refused")).into()),
            (Err(problem), true) => return Err(problem.into()),
        }
    }
    check(denied == 1, "the fourth was refused, in the words for a table that does not exist")?;
    let _ = stop.send(());
    serving.await.map_err(|e| wrong(&e.to_string()))??;
    server.close().await?;

    title("4  exactly those reads, in the ledger");
    let (engine, engineer) = context.session().await?;
    let text = "SELECT action, principal, purpose, dataset, dataset_version, decision, outcome, rows \
                FROM system.access.audit WHERE action IN ('serve', 'deny') ORDER BY writer, seq";
    let auditor = engine.session(auditor(&context)?);
    let rows = collect(&auditor, text).await?;
    output::batches(&rows, Some(Format::Table), &OutputArgs { output: None, limit: 0 })?;
    check(rows.iter().map(RecordBatch::num_rows).sum::<usize>() == 4, "four requests, four rows")?;

    title("5  where one served column comes from");
    let features = "features.risk_inputs".parse().map_err(|e| wrong(&format!("{e}")))?;
    let upstream = super::lineage::walk(
        &engineer,
        &super::lineage::Place::column(features, "lipid_ratio"),
        None,
        64,
        false,
        false,
    )
    .await?;
    output::text(&upstream.tree())?;
    check(upstream.reaches("raw.labs"), "the walk ends at raw columns")?;
    engine.close().await?;

    title("6  the ledger, verified against checkpoints kept before the reads");
    let report = verify_ledger(
        &root_ledger(&context),
        &VerifyOptions { notes: vec![kept], mirrors: vec![], anchors: vec![], max_age_seconds: 300 },
        &SystemClock,
    )?;
    report.render().lines().for_each(|line| out(&format!("  {line}")));
    check(report.verdict.exit_code() == 0, "the ledger verifies")?;
    out("");
    out(&format!("all of it in {:.1} s; the project is {}", began.elapsed().as_secs_f64(), folder.display()));
    out(&format!("try: cd {} && custody lineage features.risk_inputs.bmi", folder.display()));
    Ok(Done::Well)
}

fn title(text: &str) {
    out(&format!("== {text}"));
}

fn check(holds: bool, what: &str) -> Result<(), Problem> {
    if holds {
        out(&format!("  ok: {what}"));
        Ok(())
    } else {
        Err(wrong(&format!("this does not hold: {what}")))
    }
}

fn wrong(what: &str) -> Problem {
    Problem::bug(format!("the demo went wrong: {what}"))
}

fn unwritable(error: &std::io::Error) -> Problem {
    Problem::new(7202, format!("the demo's folder cannot be written: {error}"))
        .help("custody demo DIR takes a folder that does not exist yet")
}

fn fresh() -> Result<PathBuf, Problem> {
    let folder = std::env::temp_dir().join(format!("custody-demo-{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir(&folder).map_err(|e| unwritable(&e))?;
    Ok(folder)
}

fn root_ledger(context: &Context) -> PathBuf {
    context.root.join(&context.file.project.warehouse).join("ledger")
}

fn request(context: &Context, name: &str, declared: &StandIn) -> TokenRequest {
    TokenRequest {
        principal: name.to_string(),
        kind: declared.kind.clone(),
        roles: declared.roles.clone(),
        attributes: declared.attributes.clone(),
        purposes: declared.purposes.clone(),
        stage: declared.stage.clone(),
        model: None,
        audience: context.file.project.name.clone(),
        seconds: 900,
    }
}

fn auditor(context: &Context) -> Result<custody_model::Subject, Problem> {
    let mut subject = context.subject()?;
    subject.roles.insert("auditor".into());
    subject.purpose = "audit".into();
    Ok(subject)
}

async fn collect(session: &Session, text: &str) -> Result<Vec<RecordBatch>, Problem> {
    session.read(ReadRequest::sql(text)).await?.collect().await
}

type Serving = tokio::task::JoinHandle<Result<(), Problem>>;

/// Serves on a free port of loopback.
async fn start(
    context: &Context,
    engine: std::sync::Arc<custody_engine::Engine>,
) -> Result<(SocketAddr, tokio::sync::oneshot::Sender<()>, Serving), Problem> {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (told, address) = tokio::sync::oneshot::channel();
    let options = ServeOptions {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        audience: context.file.project.name.clone(),
        tls: None,
        drain: Duration::from_secs(5),
    };
    let serving = tokio::spawn(async move {
        custody_flight::serve(
            engine,
            options,
            |address| {
                let _ = told.send(address);
            },
            async {
                let _ = stopped.await;
            },
        )
        .await
    });
    let address = address.await.map_err(|_| wrong("the server did not start"))?;
    out(&format!("  serving grpc://{address}"));
    Ok((address, stop, serving))
}

/// Reads a feature version as any Flight client does: a path, a ticket, a stream.
async fn pull(address: SocketAddr, token: &str, version: &str) -> Result<Vec<RecordBatch>, Problem> {
    let refused = |s: tonic::Status| problem_of(&s);
    let channel = Channel::from_shared(format!("http://{address}"))
        .map_err(|e| wrong(&e.to_string()))?
        .connect()
        .await
        .map_err(|e| wrong(&e.to_string()))?;
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse().map_err(|_| wrong("a token is no header"))?;
    let mut client = FlightServiceClient::with_interceptor(channel, move |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    });
    let descriptor = FlightDescriptor::new_path(vec!["features".into(), version.into()]);
    let info = client.get_flight_info(descriptor).await.map_err(refused)?.into_inner();
    let mut batches = vec![];
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.unwrap_or_else(|| Ticket::new(""));
        let stream = client.do_get(ticket).await.map_err(refused)?.into_inner();
        let mut rows = FlightRecordBatchStream::new_from_flight_data(stream.map_err(Into::into));
        while let Some(batch) = rows.next().await {
            batches.push(batch.map_err(|e| wrong(&e.to_string()))?);
        }
    }
    Ok(batches)
}

/// The first rows, as the reader got them.
fn show(batches: &[RecordBatch]) -> Result<(), Problem> {
    let Some(first) = batches.iter().find(|b| b.num_rows() > 0) else { return Ok(()) };
    let sample = first.slice(0, first.num_rows().min(3));
    output::batches(&[sample], Some(Format::Table), &OutputArgs { output: None, limit: 0 })
}
