//! What makes a version another version.

use super::ENGINE_VERSION;
use crate::problem::from_datafusion;
use custody_dialect::AsOfJoin;
use custody_model::{DatasetDefinition, Hash, InputRef, Problem};
use custody_policy::FlooredGroups;
use datafusion::logical_expr::LogicalPlan;
use sha3::{Digest, Sha3_256};

/// SHA3-256 over plan, declaration, inputs and engine version: no version numbers, so drafts and publishes agree.
pub(super) fn identity(plan: &Hash, definition: &DatasetDefinition, inputs: &[InputRef]) -> Hash {
    let mut parts: Vec<Vec<u8>> = vec![plan.as_bytes().to_vec(), definition_bytes(definition)];
    for input in inputs {
        parts.push([input.dataset.0.as_bytes().as_slice(), input.content.as_bytes()].concat());
    }
    parts.push(ENGINE_VERSION.to_be_bytes().to_vec());
    digest("custody version v1", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// What of a declaration makes another version: not its name, owner, purposes, comment or text.
pub(super) fn definition_bytes(d: &DatasetDefinition) -> Vec<u8> {
    let mut text = format!("{}|{:?}|{:?}", d.kind.word(), d.entity, d.ttl);
    for c in &d.columns {
        let role = [
            d.keys.iter().position(|k| *k == c.field).map(|i| format!("key{i}")),
            (d.event_time == Some(c.field)).then(|| "event".into()),
            (d.known_time == Some(c.field)).then(|| "known".into()),
        ];
        let role: Vec<String> = role.into_iter().flatten().collect();
        text.push_str(&format!("|{:?} {} {} {} {}", c.name, c.field, c.data_type, c.nullable, role.join(",")));
    }
    text.into_bytes()
}

pub(super) fn digest(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha3_256::new();
    for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Hash(hasher.finalize().into())
}

/// Every node of the plan and of its subqueries, in pre-order. A barrier is left out: its text names the reader's
/// grant and the version's number, and what it does to the rows stands below it.
pub(super) fn plan_text(plan: &LogicalPlan) -> Result<String, Problem> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    let mut text = String::new();
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Extension(e)
                if AsOfJoin::of(e.node.as_ref()).is_none() && FlooredGroups::of(e.node.as_ref()).is_none() =>
            {
                text.push_str("node\n");
            }
            other => text.push_str(&format!("{}\n", other.display())),
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(|e| from_datafusion(&e))?;
    Ok(text)
}
