use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;
use crate::disk::random;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

/// Answers that wait for a stream's reader; then its requests wait.
const PIPELINE: usize = 16;

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let mut request = request.into_inner();
        if request.id == 0 {
            request.id = random();
        }
        let mut response = self.engine.call(move |state, now| state.grant(&request, now)).await??;
        self.identity.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        let mut response = self.engine.call(move |state, _| state.revoke(id)).await??;
        self.identity.sign(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (outbox, inbox) = mpsc::channel(PIPELINE);
        let (mut requests, service) = (request.into_inner(), self.clone());
        tokio::spawn(async move {
            while let Ok(Some(LeaseKeepAliveRequest { id })) = requests.message().await {
                let answer = service.engine.call(move |state, now| state.keep_alive(id, now)).await;
                let answer = answer.map_err(Status::from).map(|mut response| {
                    service.identity.sign(&mut response.header);
                    response
                });
                let end = answer.is_err();
                if outbox.send(answer).await.is_err() || end {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(inbox)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let mut response = self.engine.call(move |state, now| state.time_to_live(&request, now)).await?;
        self.identity.sign(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        let mut response = self.engine.call(|state, _| state.leases()).await?;
        self.identity.sign(&mut response.header);
        Ok(Response::new(response))
    }
}
