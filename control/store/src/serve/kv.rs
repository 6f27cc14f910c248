use tonic::{Request, Response, Status};

use super::{Service, short_enough};
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

/// Hands the request to that step of the state, and signs the answer.
macro_rules! answer {
    ($service:ident, $request:ident, $step:ident) => {{
        let request = $request.into_inner();
        short_enough(&request)?;
        let mut response = $service.engine.call(move |state, _| state.$step(&request)).await??;
        $service.identity.sign(&mut response.header);
        Ok(Response::new(response))
    }};
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        answer!(self, request, range)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        answer!(self, request, put)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        answer!(self, request, delete)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        answer!(self, request, txn)
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        answer!(self, request, compact)
    }
}
