//! The life of a read, top to bottom.
//!
//! 1. A door has authenticated the caller: a [`Subject`](custody_model::Subject) exists.
//! 2. The text passes the gate; every name is pinned to a dataset at a version (`pin.rs`).
//! 3. Policy decides on each reference: rows, rungs, why (`custody_policy::decide`).
//! 4. Each name resolves to its governed relation; DataFusion plans over those only (`provider.rs`).
//! 5. Lineage of that unoptimised plan, then the optimiser, then the barrier check (`governed.rs`): a `GovernedPlan`.
//! 6. The intent entry becomes durable (`audit.rs`): an `AuditReceipt`.
//! 7. `execute(GovernedPlan, AuditReceipt)`; batches leave within the byte grant; the outcome is durable before the
//!    stream ends.
//!
//! What holds here: no batch exists outside a [`GovernedRead`]; a refusal is an entry too; a reader that goes away
//! leaves an outcome behind.

use crate::{
    audit::OutcomeSlot,
    governed::GovernedPlan,
    pin::Statement,
    problem::from_datafusion,
    scans::scans,
    session::{ReadRequest, Session},
};
use custody_ledger::AuditReceipt;
use custody_model::{EntryRef, Hash, Outcome, Problem, ScanFact};
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    execution::SendableRecordBatchStream,
    physical_plan::{ExecutionPlan, execute_stream},
};
use futures::StreamExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

impl Session {
    /// Reads: the whole story.
    ///
    /// Errors are problems that tell the caller what to do, and each is recorded; the same text answers a name that
    /// does not exist and one that the subject may not see.
    pub async fn read(&self, request: ReadRequest) -> Result<GovernedRead, Problem> {
        self.read_decided(request, None).await
    }

    /// Reads what a ticket promised: refused where the decisions are not those that it was issued under.
    pub async fn read_granted(&self, request: ReadRequest, grants: &[Hash]) -> Result<GovernedRead, Problem> {
        self.read_decided(request, Some(grants)).await
    }

    async fn read_decided(&self, request: ReadRequest, promised: Option<&[Hash]>) -> Result<GovernedRead, Problem> {
        let began = Instant::now();
        let statement = match self.pin(&request).await {
            Ok(statement) => statement,
            Err(refused) => return Err(self.denied(&request, &[], refused).await),
        };
        if let Some(promised) = promised
            && !statement.pinned.iter().map(|t| &t.grant.hash).eq(promised)
        {
            let changed = Problem::new(3301, "grant changed since the ticket was issued").help("ask for a new ticket");
            return Err(self.denied(&request, &statement.pinned, changed).await);
        }
        match self.begin(&request, &statement, began).await {
            Ok(read) => Ok(read),
            Err(refused) => Err(self.denied(&request, &statement.pinned, refused).await),
        }
    }

    async fn begin(
        &self,
        request: &ReadRequest,
        statement: &Statement,
        began: Instant,
    ) -> Result<GovernedRead, Problem> {
        if let Some(answer) = self.explain(request, statement).await? {
            return Ok(GovernedRead::told(answer));
        }
        let plan = self.govern(request, statement).await?;
        let intent = self.intent_entry(request, statement, &plan)?;
        Self::unexpired(&statement.pinned, &intent)?;
        let granted = self.engine.settings.granted_bytes;
        let (receipt, slot) = self.engine.recorder.intent(intent).await?;
        let (entry, schema) = (receipt.entry_ref().clone(), plan.schema());
        match execute(plan, receipt) {
            Ok(running) => Ok(GovernedRead {
                schema,
                entry,
                body: Body::Rows {
                    running,
                    slot,
                    granted,
                    wide: granted,
                    spent: Duration::ZERO,
                    began,
                    session: self.clone(),
                },
                released: Totals::default(),
            }),
            Err(problem) => {
                slot.close(self.outcome_entry(Outcome::Failure, Some(&problem), Totals::default(), vec![], began))
                    .await?;
                Err(problem)
            }
        }
    }
}

/// The only way to run a plan: what policy governed, under an entry that is durable.
///
/// Fails where the receipt was earned by another plan.
pub(crate) fn execute(plan: GovernedPlan, receipt: AuditReceipt) -> Result<Running, Problem> {
    if receipt.plan() != Some(plan.fingerprint()) {
        return Err(Problem::bug("receipt belongs to another plan"));
    }
    let (physical, context) = plan.into_parts();
    let stream = execute_stream(Arc::clone(&physical), context).map_err(|e| from_datafusion(&e))?;
    Ok(Running { stream, physical })
}

/// A plan that runs.
pub(crate) struct Running {
    pub(crate) stream: SendableRecordBatchStream,
    physical: Arc<dyn ExecutionPlan>,
}

impl Running {
    /// What it has taken from storage so far.
    pub(crate) fn scans(&self) -> Vec<ScanFact> {
        scans(&self.physical)
    }
}

/// What has left so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows.
    pub rows: u64,
    /// Batches.
    pub batches: u64,
    /// Encoded bytes, as the door counted them.
    pub bytes: u64,
}

/// A read on its way: the only holder of its batches.
///
/// Hand bytes out only after [`GovernedRead::release`]; end with [`GovernedRead::finish`]. A read that is dropped
/// before leaves the outcome `client_cancelled` with what was released until then.
pub struct GovernedRead {
    schema: SchemaRef,
    entry: EntryRef,
    body: Body,
    released: Totals,
}

enum Body {
    /// Rows from a running plan.
    Rows {
        running: Running,
        slot: OutcomeSlot,
        /// Bytes that may leave under the entries so far.
        granted: u64,
        /// How much one more entry lets out.
        wide: u64,
        /// How long the plan has run.
        spent: Duration,
        began: Instant,
        session: Session,
    },
    /// An explanation: recorded already, holds no rows of a dataset.
    Told(Option<RecordBatch>),
    /// Ended; its outcome is durable.
    Ended,
}

impl GovernedRead {
    pub(crate) fn told(answer: Told) -> Self {
        Self {
            schema: answer.batch.schema(),
            entry: answer.entry,
            body: Body::Told(Some(answer.batch)),
            released: Totals::default(),
        }
    }

    /// The schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The entry under which this read runs: its receipt.
    pub fn receipt(&self) -> &EntryRef {
        &self.entry
    }

    /// The next batch; `None` after the last. An error has ended the read, with its outcome recorded.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Problem>> {
        let next = match &mut self.body {
            Body::Told(batch) => return batch.take().map(Ok),
            Body::Ended => return None,
            Body::Rows { running, spent, session, .. } => {
                let limit = session.engine.settings.statement_time;
                let began = Instant::now();
                let next = tokio::time::timeout(limit.saturating_sub(*spent), running.stream.next()).await;
                *spent += began.elapsed();
                match next {
                    Ok(next) => next?.map_err(|e| from_datafusion(&e)),
                    Err(_) => Err(Problem::new(7108, format!("the statement took more than {} s", limit.as_secs()))
                        .help("ask for less at once, or raise `limits.statement_seconds`")),
                }
            }
        };
        match next {
            Ok(batch) => Some(Ok(batch)),
            Err(problem) => Some(Err(match self.end(Outcome::Failure, Some(&problem)).await {
                Ok(()) => problem,
                Err(lost) => lost,
            })),
        }
    }

    /// Asks to hand out `rows` rows in `bytes` encoded bytes. `Ok`: durable entries cover them.
    pub async fn release(&mut self, rows: u64, bytes: u64) -> Result<(), Problem> {
        if let Body::Rows { slot, granted, wide, session, .. } = &mut self.body {
            let total = self.released.bytes + bytes;
            if total > granted.saturating_sub(*wide / 2) {
                *granted = total + *wide;
                slot.progress(*granted).await?;
            }
            if self.released.batches == 0 {
                session.engine.reads_released.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            slot.released().add(rows, bytes);
        }
        self.released.rows += rows;
        self.released.batches += 1;
        self.released.bytes += bytes;
        Ok(())
    }

    /// Ends well: the outcome is durable when this returns.
    pub async fn finish(mut self) -> Result<Totals, Problem> {
        self.end(Outcome::Success, None).await?;
        Ok(self.released)
    }

    /// Ends badly, for a reason of the door's: the outcome is durable when this returns.
    pub async fn fail(mut self, problem: &Problem) -> Result<(), Problem> {
        self.end(Outcome::Failure, Some(problem)).await
    }

    /// All batches, for callers within the process that count no bytes: releases each by its size in memory.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, Problem> {
        let mut batches = vec![];
        while let Some(batch) = self.next().await {
            let batch = batch?;
            self.release(batch.num_rows() as u64, batch.get_array_memory_size() as u64).await?;
            batches.push(batch);
        }
        self.finish().await?;
        Ok(batches)
    }

    async fn end(&mut self, outcome: Outcome, problem: Option<&Problem>) -> Result<(), Problem> {
        match std::mem::replace(&mut self.body, Body::Ended) {
            Body::Rows { running, slot, began, session, .. } => {
                let outcome = session.outcome_entry(outcome, problem, self.released, running.scans(), began);
                slot.close(outcome).await?;
                Ok(())
            }
            Body::Told(_) | Body::Ended => Ok(()),
        }
    }
}

/// An explanation and the entry that recorded it.
pub(crate) struct Told {
    pub(crate) batch: RecordBatch,
    pub(crate) entry: EntryRef,
}
