//! What a plan took from storage, by table version: the scan facts of an outcome.

use crate::barrier::BarrierExec;
use custody_model::{Hash, ScanFact, ScannedFile};
use custody_store::scanned;
use datafusion::physical_plan::ExecutionPlan;
use sha3::{Digest, Sha3_256};
use std::sync::Arc;

/// Of more files an outcome holds the number and the hash.
const LISTED: usize = 4_096;

/// One fact for each barrier with storage beneath, sorted.
pub(crate) fn scans(plan: &Arc<dyn ExecutionPlan>) -> Vec<ScanFact> {
    let mut facts = vec![];
    walk(plan, &mut facts);
    facts.sort();
    facts
}

fn walk(plan: &Arc<dyn ExecutionPlan>, facts: &mut Vec<ScanFact>) {
    if let Some(barrier) = plan.downcast_ref::<BarrierExec>() {
        let taken = scanned(barrier.input());
        let at = barrier.at();
        // System tables are no storage; a scan that ended before its first file took nothing.
        if !taken.files.is_empty() {
            facts.push(ScanFact {
                dataset: at.dataset,
                version: at.version,
                made_at: at.made_at,
                rows: taken.rows,
                opened: taken.files.len() as u64,
                list: list_hash(&taken.files),
                files: if taken.files.len() > LISTED { vec![] } else { taken.files },
            });
        }
        return;
    }
    plan.children().into_iter().for_each(|child| walk(child, facts));
}

fn list_hash(files: &[ScannedFile]) -> Hash {
    let mut hasher = Sha3_256::new();
    for file in files {
        hasher.update((file.path.len() as u64).to_be_bytes());
        hasher.update(file.path.as_bytes());
        hasher.update(file.row_groups.map_or(u64::MAX, |n| n).to_be_bytes());
        hasher.update(file.skipped.to_be_bytes());
    }
    Hash(hasher.finalize().into())
}
