import Essentials
import Foundation
import Protocol

extension WireReportReplicasResponse {
    /// Takes every report.
    static func accepting(_ request: WireReportReplicasRequest) -> Self {
        var response = Self()
        response.replicas = request.replicas.map { replica in
            var result = ReplicaResult()
            result.topicID = replica.topicID
            result.partition = replica.partition
            return result
        }
        return response
    }
}
