//! RPC → request: authenticate, then ask the session.
//!
//! What holds here: every RPC that touches data or metadata has a session, so it is governed and recorded; a path
//! names a dataset version, a command names a statement; whatever else Flight offers is refused by name.

use crate::{
    commands,
    identity::Authenticator,
    status::{not_offered, status},
    tickets::{Kind, SECONDS, Sealer, Ticket, What, versioned},
    wire::{Encoder, wire_schema},
};
use arrow::{array::RecordBatch, datatypes::SchemaRef, ipc::reader::StreamReader, ipc::writer::StreamWriter};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaAsIpc, SchemaResult, Ticket as FlightTicket,
    decode::FlightRecordBatchStream,
    flight_descriptor::DescriptorType,
    flight_service_server::FlightService,
    sql::{
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        Any, Command, DoPutPreparedStatementResult, ProstMessageExt,
    },
};
use base64::Engine as _;
use bytes::Bytes;
use custody_engine::{GovernedRead, ReadRequest, Session};
use custody_model::{Pin, Problem, SourceText, Subject, Verb};
use datafusion::{common::ParamValues, scalar::ScalarValue};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use std::pin::Pin as Pinned;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataMap};

type Answers<T> = Pinned<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// A ready subject, put into a request by the channel within this process and by nothing else.
#[derive(Clone)]
pub(crate) struct LocalSubject(pub(crate) Subject);

/// The Flight door of a warehouse.
#[derive(Clone)]
pub struct Door {
    auth: Authenticator,
    sealer: Sealer,
}

impl Door {
    /// A door for this authenticator's engine.
    pub fn new(auth: Authenticator) -> Result<Self, Problem> {
        let engine = auth.engine();
        let sealer = Sealer::new(&engine.keys().ticket_key()?, &engine.settings().name);
        Ok(Self { auth, sealer })
    }

    async fn session(&self, metadata: &MetadataMap, extensions: &Extensions, verb: Verb) -> Result<Session, Status> {
        let local = extensions.get::<LocalSubject>().map(|l| &l.0);
        let plain = || extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let tls = || extensions.get::<TlsConnectInfo<TcpConnectInfo>>().and_then(|c| c.get_ref().remote_addr());
        let from = plain().or_else(tls).map(|address| address.ip());
        self.auth.session(metadata, local, from, verb).await.map_err(|p| status(&p))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.auth.engine().clock().now().0 / 1_000_000_000).unwrap_or(0)
    }

    /// What a descriptor asks for: a statement, a dataset version, or metadata.
    fn asked(&self, session: &Session, descriptor: &FlightDescriptor) -> Result<Asked, Problem> {
        match descriptor.r#type() {
            DescriptorType::Path => {
                let what = path(&descriptor.path)?;
                Ok(Asked::Rows { what, parameters: None })
            }
            DescriptorType::Cmd => match command(&descriptor.cmd)? {
                Command::CommandStatementQuery(query) => {
                    if query.transaction_id.is_some() {
                        return Err(Problem::new(1503, "transactions are not offered"));
                    }
                    Ok(Asked::Rows { what: What::Sql(query.query), parameters: None })
                }
                Command::CommandPreparedStatementQuery(query) => {
                    let handle = self.handle(session, &query.prepared_statement_handle)?;
                    Ok(Asked::Rows { what: handle.what, parameters: handle.parameters })
                }
                other => Ok(Asked::Metadata(other, descriptor.cmd.clone())),
            },
            DescriptorType::Unknown => Err(Problem::new(1504, "the descriptor has neither a path nor a command")
                .help(r#"a path is ["features", "lab_trend@5"]"#)),
        }
    }

    /// A prepared statement of this session's principal and purpose. Someone else's is not found.
    fn handle(&self, session: &Session, bytes: &[u8]) -> Result<Ticket, Problem> {
        self.sealer
            .open(Kind::Handle, bytes)
            .filter(|t| owns(session, t) && t.expires >= self.now())
            .ok_or_else(|| Problem::new(6502, "prepared statement not found").help("prepare it again"))
    }

    fn request(what: &What, parameters: Option<&Vec<u8>>) -> Result<ReadRequest, Problem> {
        Ok(match what {
            What::Sql(text) => ReadRequest::Sql {
                text: SourceText::inline(text.clone()),
                parameters: parameters.map(|p| bound(p)).transpose()?,
                follows: None,
            },
            What::Dataset { name, version, columns } => ReadRequest::Dataset {
                name: name.parse().map_err(|e: custody_model::BadName| Problem::new(1501, e.to_string()))?,
                pin: if *version == 0 { Pin::Newest } else { Pin::Version(*version) },
                columns: columns.clone(),
                follows: None,
            },
        })
    }

    async fn info(&self, session: &Session, descriptor: FlightDescriptor) -> Result<(FlightInfo, SchemaRef), Status> {
        match recorded(session, self.asked(session, &descriptor)).await? {
            Asked::Metadata(command, bytes) => {
                let batch = commands::answer(session, &command).await?;
                let schema = batch.schema();
                let endpoint = FlightEndpoint::new().with_ticket(FlightTicket::new(bytes));
                let info = FlightInfo::new().try_with_schema(&schema).map_err(internal)?;
                Ok((info.with_descriptor(descriptor).with_endpoint(endpoint), schema))
            }
            Asked::Rows { mut what, parameters } => {
                let request = recorded(session, Self::request(&what, parameters.as_ref())).await?;
                let described = session.describe(&request).await.map_err(|p| status(&p))?;
                if let (What::Dataset { version, .. }, Some(at)) = (&mut what, described.versions.first()) {
                    *version = at.version;
                }
                let ticket = self.ticket(session, what, parameters, &described);
                let sealed = self.sealer.seal(Kind::Ticket, &ticket).map_err(|p| status(&p))?;
                let schema = wire_schema(&described.schema);
                let rows = described.rows.and_then(|r| i64::try_from(r).ok()).unwrap_or(-1);
                let info = FlightInfo::new()
                    .try_with_schema(&schema)
                    .map_err(internal)?
                    .with_descriptor(descriptor)
                    .with_endpoint(FlightEndpoint::new().with_ticket(FlightTicket::new(sealed)))
                    .with_total_records(rows)
                    .with_total_bytes(-1)
                    .with_ordered(true);
                Ok((info, schema))
            }
        }
    }

    fn ticket(
        &self,
        session: &Session,
        what: What,
        parameters: Option<Vec<u8>>,
        described: &custody_engine::Described,
    ) -> Ticket {
        Ticket {
            principal: session.subject().principal.0.clone(),
            purpose: session.subject().purpose.0.clone(),
            what,
            grants: described.grants.iter().map(ToString::to_string).collect(),
            versions: described.versions.iter().map(|v| (v.name.to_string(), v.version)).collect(),
            entry: Some(described.id.to_string()),
            parameters,
            expires: self.now() + SECONDS,
        }
    }

    async fn redeem(&self, session: &Session, bytes: &[u8]) -> Result<GovernedRead, Status> {
        let Some(ticket) = self.sealer.open(Kind::Ticket, bytes) else {
            return Err(self.bypass(session, "altered_ticket").await);
        };
        if !owns(session, &ticket) {
            return Err(self.bypass(session, "foreign_ticket").await);
        }
        if ticket.expires < self.now() {
            return Err(self.bypass(session, "expired_ticket").await);
        }
        let request = Self::request(&ticket.what, ticket.parameters.as_ref())
            .map_err(|p| status(&p))?
            .following(ticket.entry_id());
        session.read_granted(request, &ticket.grant_hashes()).await.map_err(|p| status(&p))
    }

    /// A ticket of someone else, altered or expired: one text for all, and an entry.
    async fn bypass(&self, session: &Session, technique: &str) -> Status {
        let problem = Problem::new(3004, "this ticket is not valid here").help("ask for a new one: GetFlightInfo");
        status(&session.bypass(technique, problem).await)
    }

    async fn prepare(&self, session: &Session, query: String) -> Result<ActionCreatePreparedStatementResult, Status> {
        let what = What::Sql(query);
        let request = Self::request(&what, None).map_err(|p| status(&p))?;
        let described = session.describe(&request).await.map_err(|p| status(&p))?;
        let mut handle = self.ticket(session, what, None, &described);
        handle.grants.clear();
        handle.expires = self.now() + 24 * 60 * 60;
        let sealed = self.sealer.seal(Kind::Handle, &handle).map_err(|p| status(&p))?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: sealed.into(),
            dataset_schema: schema_bytes(&wire_schema(&described.schema))?,
            parameter_schema: match described.parameters.fields().is_empty() {
                true => Bytes::new(),
                false => schema_bytes(&described.parameters)?,
            },
        })
    }
}

enum Asked {
    Rows { what: What, parameters: Option<Vec<u8>> },
    Metadata(Command, Bytes),
}

/// A request refused before the engine saw it leaves an entry too.
async fn recorded<T>(session: &Session, done: Result<T, Problem>) -> Result<T, Status> {
    match done {
        Ok(value) => Ok(value),
        Err(problem) => Err(status(&session.refuse(Verb::Metadata, problem).await)),
    }
}

/// Whether a sealed blob was made for this principal and purpose.
fn owns(session: &Session, ticket: &Ticket) -> bool {
    session.subject().principal.0 == ticket.principal && session.subject().purpose.0 == ticket.purpose
}

/// `["features", "lab_trend@5"]`, optionally with a third element `"hdl_mean_2y,…"`.
fn path(path: &[String]) -> Result<What, Problem> {
    let wrong = || {
        Problem::new(1504, format!("`{}` is not a path this server knows", path.join("/")))
            .help(r#"a path is ["features", "lab_trend@5"], then perhaps "column,column""#)
    };
    let (schema, name, columns) = match path {
        [schema, name] => (schema, name, None),
        [schema, name, columns] => (schema, name, Some(columns)),
        _ => return Err(wrong()),
    };
    if schema != "features" {
        return Err(wrong());
    }
    let (name, pin) = versioned(schema, name)?;
    let columns = columns.map(|c| c.split(',').map(|c| c.trim().to_string()).collect()).unwrap_or_default();
    let version = match pin {
        Pin::Version(0) => return Err(custody_engine::version_not_found(&name, 0)),
        Pin::Version(n) => n,
        Pin::Newest | Pin::At(_) => 0,
    };
    Ok(What::Dataset { name: name.to_string(), version, columns })
}

fn command(bytes: &[u8]) -> Result<Command, Problem> {
    Any::decode(bytes)
        .ok()
        .and_then(|any| Command::try_from(any).ok())
        .ok_or_else(|| Problem::new(1505, "the command is not a Flight SQL command"))
}

/// Parameters of a prepared statement: one row, by position or by name.
fn bound(bytes: &[u8]) -> Result<ParamValues, Problem> {
    let wrong = |e: &dyn std::fmt::Display| Problem::new(1506, format!("the parameters cannot be read: {e}"));
    let reader = StreamReader::try_new(bytes, None).map_err(|e| wrong(&e))?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(&e))?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let [batch] = batches.as_slice() else { return Err(wrong(&"expected one batch")) };
    if rows != 1 {
        return Err(Problem::new(1506, format!("a query takes one row of parameters, not {rows}")));
    }
    let values = batch
        .columns()
        .iter()
        .map(|c| ScalarValue::try_from_array(c, 0).map(Into::into))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| wrong(&e))?;
    Ok(ParamValues::List(values))
}

fn internal(error: impl std::fmt::Display) -> Status {
    status(&Problem::bug(error))
}

fn schema_bytes(schema: &SchemaRef) -> Result<Bytes, Status> {
    let options = arrow::ipc::writer::IpcWriteOptions::default();
    let message: arrow_flight::IpcMessage = SchemaAsIpc::new(schema, &options).try_into().map_err(internal)?;
    Ok(message.0)
}

/// The messages of a governed read. Each leaves only after the ledger covers it; the stream ends after the outcome.
fn stream_read(read: GovernedRead) -> Answers<FlightData> {
    enum State {
        Running { read: GovernedRead, encoder: Encoder, ready: std::collections::VecDeque<crate::wire::Message> },
        Done,
    }
    let encoder = Encoder::new(&read.schema());
    let ready = [encoder.schema()].into();
    let start = State::Running { read, encoder, ready };
    Box::pin(stream::unfold(start, |state| async move {
        let State::Running { mut read, mut encoder, mut ready } = state else { return None };
        loop {
            if let Some(message) = ready.pop_front() {
                return match read.release(message.rows, message.bytes()).await {
                    Ok(()) => Some((Ok(message.data), State::Running { read, encoder, ready })),
                    Err(problem) => Some((Err(status(&problem)), State::Done)),
                };
            }
            match read.next().await {
                Some(Ok(batch)) => match encoder.encode(&batch) {
                    Ok(messages) => ready.extend(messages),
                    Err(error) => {
                        let problem = Problem::bug(format!("an answer could not be encoded: {error}"));
                        let told = read.fail(&problem).await.err().unwrap_or(problem);
                        return Some((Err(status(&told)), State::Done));
                    }
                },
                Some(Err(problem)) => return Some((Err(status(&problem)), State::Done)),
                None => {
                    return match read.finish().await {
                        Ok(_) => None,
                        Err(problem) => Some((Err(status(&problem)), State::Done)),
                    };
                }
            }
        }
    }))
}

fn stream_batch(batch: &RecordBatch) -> Result<Answers<FlightData>, Status> {
    let mut encoder = Encoder::new(&batch.schema());
    let mut messages = vec![encoder.schema()];
    messages.extend(encoder.encode(batch).map_err(internal)?);
    Ok(Box::pin(stream::iter(messages.into_iter().map(|m| Ok(m.data)))))
}

#[tonic::async_trait]
impl FlightService for Door {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<ActionResult>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    /// Basic authentication whose password is a token gives that token back as the bearer.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Basic "))
            .and_then(|v| base64::prelude::BASE64_STANDARD.decode(v).ok())
            .and_then(|v| String::from_utf8(v).ok())
            .and_then(|v| v.split_once(':').map(|(_, password)| password.to_string()));
        let mut metadata = MetadataMap::new();
        let bearer = format!("Bearer {}", token.unwrap_or_default());
        if let Ok(value) = bearer.parse() {
            metadata.insert("authorization", value);
        }
        // A single purpose is the default; with several, the calls that follow must name one.
        if self.auth.claims(bearer.trim_start_matches("Bearer ")).is_none() {
            self.session(&metadata, request.extensions(), Verb::Metadata).await?;
        }
        let answer = HandshakeResponse { protocol_version: 0, payload: Bytes::new() };
        let mut response: Response<Self::HandshakeStream> = Response::new(Box::pin(stream::iter([Ok(answer)])));
        if let Ok(value) = bearer.parse() {
            response.metadata_mut().insert("authorization", value);
        }
        Ok(response)
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        let datasets = session.datasets().await.map_err(|p| status(&p))?;
        let mut infos = vec![];
        for listed in datasets.into_iter().filter(|d| d.name.schema() == "features") {
            let Some(version) = listed.newest else { continue };
            let descriptor =
                FlightDescriptor::new_path(vec!["features".into(), format!("{}@{version}", listed.name.name())]);
            let info = FlightInfo::new().try_with_schema(&wire_schema(&listed.schema)).map_err(internal)?;
            infos.push(Ok(info.with_descriptor(descriptor).with_total_records(-1).with_total_bytes(-1)));
        }
        Ok(Response::new(Box::pin(stream::iter(infos))))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        Ok(Response::new(self.info(&session, request.into_inner()).await?.0))
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        let (info, _) = self.info(&session, request.into_inner()).await?;
        Ok(Response::new(PollInfo::new().with_info(info)))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        let (_, schema) = self.info(&session, request.into_inner()).await?;
        let options = arrow::ipc::writer::IpcWriteOptions::default();
        Ok(Response::new(SchemaAsIpc::new(&schema, &options).try_into().map_err(internal)?))
    }

    async fn do_get(&self, request: Request<FlightTicket>) -> Result<Response<Self::DoGetStream>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Read).await?;
        let bytes = &request.get_ref().ticket;
        // A metadata command is its own ticket; nothing sealed parses as one.
        match command(bytes) {
            Ok(asked) if commands::is_metadata(&asked) => {
                Ok(Response::new(stream_batch(&commands::answer(&session, &asked).await?)?))
            }
            Ok(Command::CommandPreparedStatementQuery(query)) => {
                let handle = recorded(&session, self.handle(&session, &query.prepared_statement_handle)).await?;
                let request = Self::request(&handle.what, handle.parameters.as_ref())
                    .map_err(|p| status(&p))?
                    .following(handle.entry_id());
                let read = session.read(request).await.map_err(|p| status(&p))?;
                Ok(received(read))
            }
            _ => Ok(received(self.redeem(&session, bytes).await?)),
        }
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else {
            return Err(Status::invalid_argument("DoPut without a message"));
        };
        let descriptor = first.flight_descriptor.clone().unwrap_or_default();
        let asked = recorded(&session, command(&descriptor.cmd)).await?;
        let Command::CommandPreparedStatementQuery(query) = asked else {
            let problem = Problem::new(1507, "writing through Flight is not offered")
                .help("features are published from a project: custody publish");
            let told = session.refuse(Verb::Read, problem).await;
            return Err(Status::unimplemented(told.to_string()));
        };
        let mut handle = recorded(&session, self.handle(&session, &query.prepared_statement_handle)).await?;
        let all = stream::iter([Ok(first)]).chain(messages.map_err(Into::into));
        let batches: Vec<RecordBatch> = FlightRecordBatchStream::new_from_flight_data(all)
            .try_collect()
            .await
            .map_err(|e| Status::invalid_argument(format!("the parameters cannot be read: {e}")))?;
        handle.parameters = Some(ipc(&batches)?);
        let sealed = self.sealer.seal(Kind::Handle, &handle).map_err(|p| status(&p))?;
        let answer = DoPutPreparedStatementResult { prepared_statement_handle: Some(sealed.into()) };
        let put = PutResult { app_metadata: answer.encode_to_vec().into() };
        Ok(Response::new(Box::pin(stream::iter([Ok(put)]))))
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let session = self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        let action = request.into_inner();
        let body = match action.r#type.as_str() {
            "CreatePreparedStatement" => {
                let asked: ActionCreatePreparedStatementRequest = unpack(&action.body)?;
                if asked.transaction_id.is_some() {
                    return Err(not_offered("a transaction"));
                }
                Some(self.prepare(&session, asked.query).await?.as_any().encode_to_vec())
            }
            "ClosePreparedStatement" => {
                let asked: ActionClosePreparedStatementRequest = unpack(&action.body)?;
                recorded(&session, self.handle(&session, &asked.prepared_statement_handle)).await?;
                None
            }
            // Sessions hold no state here, so there is nothing to close: 1 = closed.
            "CloseSession" => Some(vec![0x08, 0x01]),
            other => return Err(not_offered(&format!("action `{other}`"))),
        };
        let answers = body.map(|b| Ok(ActionResult { body: b.into() }));
        Ok(Response::new(Box::pin(stream::iter(answers))))
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.session(request.metadata(), request.extensions(), Verb::Metadata).await?;
        let offered = [
            ("CreatePreparedStatement", "prepares a statement"),
            ("ClosePreparedStatement", "forgets a prepared statement"),
            ("CloseSession", "ends a session"),
        ];
        let types = offered.map(|(name, text)| Ok(ActionType { r#type: name.into(), description: text.into() }));
        Ok(Response::new(Box::pin(stream::iter(types))))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.session(request.metadata(), request.extensions(), Verb::Read).await?;
        Err(not_offered("DoExchange"))
    }
}

/// A stream with its receipt in the headers.
fn received(read: GovernedRead) -> Response<Answers<FlightData>> {
    let receipt = read.receipt().to_string();
    let mut response = Response::new(stream_read(read));
    if let Ok(value) = receipt.parse() {
        response.metadata_mut().insert("x-audit-receipt", value);
    }
    response
}

fn unpack<T: ProstMessageExt + Message + Default>(body: &[u8]) -> Result<T, Status> {
    let any = Any::decode(body).map_err(|e| Status::invalid_argument(format!("the action cannot be read: {e}")))?;
    any.unpack::<T>().ok().flatten().ok_or_else(|| Status::invalid_argument("the action's body is of another type"))
}

fn ipc(batches: &[RecordBatch]) -> Result<Vec<u8>, Status> {
    let Some(first) = batches.first() else {
        return Err(Status::invalid_argument("no parameters were sent"));
    };
    let mut writer = StreamWriter::try_new(vec![], &first.schema()).map_err(internal)?;
    for batch in batches {
        writer.write(batch).map_err(internal)?;
    }
    writer.into_inner().map_err(internal)
}
