use tonic::{Request, Response, Status};

use super::Service;
use crate::mvcc::QUOTA;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, ResponseHeader, StatusRequest, StatusResponse,
};

/// The version of etcd whose answers these are, then ours.
const VERSION: &str = concat!("3.4.0+weft-", env!("CARGO_PKG_VERSION"));

#[tonic::async_trait]
impl Maintenance for Service {
    /// Alarms are asked for by health checks. There is one, which comes and goes with its reason.
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let request = request.into_inner();
        if request.action() != AlarmAction::Get {
            return Err(Status::unimplemented("alarms go away with their reason: compact the history, or delete keys"));
        }
        let asked = matches!(request.alarm(), AlarmType::None | AlarmType::Nospace);
        let (revision, full) = self.engine.call(|state, _| (state.history().revision(), state.is_full())).await?;
        let alarm = AlarmMember { member_id: self.identity.member, alarm: AlarmType::Nospace.into() };
        let alarms = if full && asked { vec![alarm] } else { Vec::new() };
        let mut header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        self.identity.sign(&mut header);
        Ok(Response::new(AlarmResponse { header, alarms }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (revision, full) = self.engine.call(|state, _| (state.history().revision(), state.is_full())).await?;
        let mut header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        self.identity.sign(&mut header);
        let size = std::fs::metadata(self.file.as_path()).map_or(0, |file| file.len());
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let index = revision.unsigned_abs();
        let full = full.then(|| format!("the history takes {} MiB of memory: compact it", QUOTA >> 20));
        Ok(Response::new(StatusResponse {
            header,
            version: VERSION.to_owned(),
            db_size: size,
            db_size_in_use: size,
            leader: self.identity.member,
            raft_index: index,
            raft_applied_index: index,
            raft_term: self.identity.term,
            errors: full.into_iter().collect(),
            is_learner: false,
        }))
    }
}
