//! Plans as text that end at each barrier: below it stand row sets, masks and files that the reader may not see.

use super::exec::BarrierExec;
use custody_model::{Hash, TableVersion};
use custody_policy::Barrier;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNodeRecursion, TreeNodeVisitor};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use std::sync::Arc;

/// The logical plan, indented, ending at each barrier unless `raw` allows to see what is below.
pub fn logical_text(plan: &LogicalPlan, raw: &dyn Fn(&TableVersion, Hash) -> bool) -> Result<String> {
    let mut lines = Lines { raw, depth: 0, text: String::new() };
    plan.visit_with_subqueries(&mut lines)?;
    Ok(lines.text)
}

struct Lines<'a> {
    raw: &'a dyn Fn(&TableVersion, Hash) -> bool,
    depth: usize,
    text: String,
}

impl<'n> TreeNodeVisitor<'n> for Lines<'_> {
    type Node = LogicalPlan;

    fn f_down(&mut self, node: &'n LogicalPlan) -> Result<TreeNodeRecursion> {
        push_line(&mut self.text, self.depth, &node.display().to_string());
        self.depth += 1;
        Ok(match Barrier::of_plan(node) {
            Some(barrier) if !(self.raw)(barrier.at(), barrier.grant()) => TreeNodeRecursion::Jump,
            _ => TreeNodeRecursion::Continue,
        })
    }

    fn f_up(&mut self, _: &'n LogicalPlan) -> Result<TreeNodeRecursion> {
        self.depth -= 1;
        Ok(TreeNodeRecursion::Continue)
    }
}

/// The physical plan, likewise.
pub fn physical_text(plan: &Arc<dyn ExecutionPlan>, raw: &dyn Fn(&TableVersion, Hash) -> bool) -> String {
    let mut text = String::new();
    lines(plan, raw, 0, &mut text);
    text
}

fn lines(plan: &Arc<dyn ExecutionPlan>, raw: &dyn Fn(&TableVersion, Hash) -> bool, depth: usize, text: &mut String) {
    push_line(text, depth, displayable(plan.as_ref()).one_line().to_string().trim_end());
    let ends = plan.downcast_ref::<BarrierExec>().is_some_and(|b| !raw(b.at(), b.grant()));
    if !ends {
        plan.children().into_iter().for_each(|child| lines(child, raw, depth + 1, text));
    }
}

fn push_line(text: &mut String, depth: usize, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.extend(std::iter::repeat_n("  ", depth));
    text.push_str(line);
}
