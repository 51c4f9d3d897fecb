//! The node that keeps groups to their floor; `engine` runs it.

use datafusion_common::arrow::datatypes::{DataType, Field};
use datafusion_common::{Column, DFSchema, DFSchemaRef, Result, plan_err};
use datafusion_expr::{Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use std::{cmp::Ordering, collections::HashSet, fmt, sync::Arc};

/// Rows of groups with enough members; the others lose their group, and are dropped where together they are still too few.
///
/// A member is a distinct value of the counted column; it counts where every one of some aggregate's columns has a value, for each
/// aggregate. The last column says whether a row has lost its group.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FlooredGroups {
    least: u64,
    groups: Vec<Column>,
    key: Column,
    values: Vec<Vec<Column>>,
    schema: DFSchemaRef,
    input: Arc<LogicalPlan>,
}

impl FlooredGroups {
    pub(super) fn new(
        least: u64,
        groups: Vec<Column>,
        key: Column,
        values: Vec<Vec<Column>>,
        input: LogicalPlan,
    ) -> Result<Self> {
        let columns = input.schema().iter().map(|(qualifier, field)| {
            let grouped = qualifier.is_none() && groups.iter().any(|g| g.name == *field.name());
            let field = match grouped {
                true => Arc::new(field.as_ref().clone().with_nullable(true)),
                false => Arc::clone(field),
            };
            (qualifier.cloned(), field)
        });
        let rest = (None, Arc::new(Field::new(super::REST, DataType::Boolean, false)));
        let schema = DFSchema::new_with_metadata(columns.chain([rest]).collect(), Default::default())?;
        Ok(Self { least, groups, key, values, schema: Arc::new(schema), input: Arc::new(input) })
    }

    /// The floor in this node, where it is one.
    pub fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// The floor in this plan's top node, where it is one.
    pub fn of_plan(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(e) => Self::of(e.node.as_ref()),
            _ => None,
        }
    }

    /// Distinct members that a group needs.
    pub fn least(&self) -> u64 {
        self.least
    }

    /// Everything that decides which rows remain and which lose their group.
    pub fn deciders(&self) -> Vec<Expr> {
        UserDefinedLogicalNodeCore::expressions(self)
    }

    /// Where its columns stand in the input: groups, the counted one, and the columns of each aggregate.
    pub fn positions(&self) -> Result<(Vec<usize>, usize, Vec<Vec<usize>>)> {
        let at = |column: &Column| self.input.schema().index_of_column(column);
        let all = |columns: &Vec<Column>| columns.iter().map(at).collect::<Result<Vec<_>>>();
        Ok((all(&self.groups)?, at(&self.key)?, self.values.iter().map(all).collect::<Result<_>>()?))
    }
}

impl fmt::Debug for FlooredGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        UserDefinedLogicalNodeCore::fmt_for_explain(self, f)
    }
}

impl PartialOrd for FlooredGroups {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        let key = |f: &Self| (f.least, f.groups.clone(), f.key.clone(), f.values.clone());
        match key(self).cmp(&key(other)) {
            Ordering::Equal => self.input.partial_cmp(&other.input).filter(|o| o.is_ne()),
            unequal => Some(unequal),
        }
    }
}

impl UserDefinedLogicalNodeCore for FlooredGroups {
    fn name(&self) -> &str {
        "GroupFloor"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let values = self.values.iter().flatten();
        self.groups.iter().chain([&self.key]).chain(values).cloned().map(Expr::Column).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupFloor: at least {}", self.least)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([input]) = <[LogicalPlan; 1]>::try_from(inputs) else { return plan_err!("a group floor has one input") };
        let columns: Option<Vec<Column>> = exprs.iter().map(|e| super::bare(e).cloned()).collect();
        let Some(columns) = columns.filter(|c| c.len() == self.deciders().len()) else {
            return plan_err!("a group floor reads its own columns");
        };
        let mut rest = columns.into_iter();
        let groups = rest.by_ref().take(self.groups.len()).collect();
        let Some(key) = rest.next() else { return plan_err!("a group floor counts a column") };
        let values = self.values.iter().map(|v| rest.by_ref().take(v.len()).collect()).collect();
        Self::new(self.least, groups, key, values, input)
    }
}
