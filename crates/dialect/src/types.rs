//! SQL types of the dialect: which there are, and what they are in Arrow.
//!
//! `TIMESTAMP` is microseconds UTC everywhere. DataFusion's own reading is nanoseconds without a zone, so the
//! engine registers [`Types`]; types that carry no zone or that DataFusion would read differently are refused.

use arrow_schema::{DataType, FieldRef, TimeUnit};
use custody_model::Problem;
use datafusion_common::{Result, datatype::DataTypeExt, plan_err};
use datafusion_expr::planner::TypePlanner;
use sqlparser::ast;
use std::sync::Arc;

/// Plans the dialect's types and refuses every other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        match arrow_type(sql_type) {
            Ok(data_type) => Ok(Some(data_type.into_nullable_field_ref())),
            Err(refused) => plan_err!("{}", refused.message),
        }
    }
}

/// `TIMESTAMP`.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(crate) struct Refused {
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

const KNOWN: &str = "types are BIGINT, INT, SMALLINT, TINYINT, BOOLEAN, DOUBLE, REAL, VARCHAR, DATE, TIMESTAMP, DECIMAL(p, s), BINARY, \
     and `type[]` of these";

/// The Arrow type of a SQL type.
pub(crate) fn arrow_type(sql: &ast::DataType) -> std::result::Result<DataType, Refused> {
    use ast::DataType as Sql;
    let zoneless = || {
        Err(Refused { message: format!("type `{sql}` has no time zone"), help: "use `TIMESTAMP`: microseconds in UTC" })
    };
    Ok(match sql {
        Sql::BigInt(None) | Sql::Int64 | Sql::Int8(None) => DataType::Int64,
        Sql::Int(None) | Sql::Integer(None) | Sql::Int4(None) | Sql::Int32 => DataType::Int32,
        Sql::SmallInt(None) | Sql::Int2(None) | Sql::Int16 => DataType::Int16,
        Sql::TinyInt(None) => DataType::Int8,
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::Double(ast::ExactNumberInfo::None) | Sql::DoublePrecision | Sql::Float8 | Sql::Float64 => {
            DataType::Float64
        }
        Sql::Real | Sql::Float4 | Sql::Float32 => DataType::Float32,
        Sql::Varchar(None) | Sql::Text | Sql::String(None) => DataType::Utf8,
        Sql::Date => DataType::Date32,
        Sql::Timestamp(None | Some(6), ast::TimezoneInfo::None | ast::TimezoneInfo::WithTimeZone) => timestamp_type(),
        Sql::Timestamp(_, _) | Sql::TimestampNtz(_) | Sql::Datetime(_) | Sql::Datetime64(_, _) | Sql::Time(_, _) => {
            return zoneless();
        }
        Sql::Decimal(info) | Sql::Numeric(info) => decimal(sql, *info)?,
        Sql::Binary(None) | Sql::Varbinary(None) | Sql::Bytea => DataType::Binary,
        Sql::Interval { fields: None, precision: None } => DataType::Interval(arrow_schema::IntervalUnit::MonthDayNano),
        Sql::Array(ast::ArrayElemTypeDef::SquareBracket(inner, None) | ast::ArrayElemTypeDef::AngleBracket(inner)) => {
            DataType::List(Arc::new(arrow_schema::Field::new_list_field(arrow_type(inner)?, true)))
        }
        Sql::Varchar(Some(_)) | Sql::String(Some(_)) | Sql::Char(_) | Sql::Character(_) => {
            return Err(Refused {
                message: format!("type `{sql}` has a length, which nothing checks"),
                help: "use `VARCHAR`; check lengths with `EXPECT`",
            });
        }
        _ => return Err(Refused { message: format!("type `{sql}` is not part of the dialect"), help: KNOWN }),
    })
}

fn decimal(sql: &ast::DataType, info: ast::ExactNumberInfo) -> std::result::Result<DataType, Refused> {
    let parts = match info {
        ast::ExactNumberInfo::PrecisionAndScale(precision, scale) => Some((precision, scale)),
        ast::ExactNumberInfo::Precision(precision) => Some((precision, 0)),
        ast::ExactNumberInfo::None => None,
    };
    let checked = parts.and_then(|(precision, scale)| {
        let (p, s) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
        ((1..=38).contains(&p) && s >= 0 && s.unsigned_abs() <= p).then_some(DataType::Decimal128(p, s))
    });
    checked.ok_or_else(|| Refused {
        message: format!("type `{sql}` needs a precision from 1 to 38 and a scale from 0 to the precision"),
        help: "write `DECIMAL(18, 2)`",
    })
}

impl Refused {
    pub(crate) fn problem(self) -> Problem {
        Problem::new(crate::code::TYPE, self.message).help(self.help)
    }
}
