import Foundation
import Testing

extension ClusterTests {
    @Suite struct JSONCallTests {
        /// A call as the contract wants it made: one that came too early for a new topic, and did
        /// nothing, is made again.
        private func call(
            _ method: String, _ json: String, broker: Int, on cluster: Cluster
        ) async throws -> CurlAnswer {
            let early = ["LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PARTITION"]
            var answer = try await cluster.curl(method, json, broker: broker)
            try await eventually("broker \(broker) knows the topic") {
                guard let error = answer.error, early.contains(error) else { return true }
                answer = try await cluster.curl(method, json, broker: broker)
                return false
            }
            return answer
        }

        @Test func produceAndFetchWorkThroughEveryBrokerWhicheverLeads() async throws {
            try await Cluster.with(controllers: 1, brokers: 3) { cluster in
                let created = try await cluster.curl(
                    "Admin/CreateTopic", #"{"name": "t", "partitions": 1, "replicationFactor": 3}"#)
                #expect(created.status == 200, "\(created)")
                for broker in 1...3 {
                    let answer = try await call(
                        "Broker/Produce",
                        """
                        {"topic": "t", "partition": 0, "acks": "ACKS_ALL", "records": [{
                          "key": {"text": "k"}, "value": {"text": "from \(broker)"},
                          "headers": [{"name": "h", "value": {"text": "x"}}]}]}
                        """, broker: broker, on: cluster)
                    #expect(answer.status == 200, "\(answer)")
                    let result = try #require((answer.body["results"] as? [[String: Any]])?.first)
                    #expect(result["baseOffset"] as? String == "\(broker - 1)", "\(answer)")
                }
                for broker in 1...3 {
                    let answer = try await call(
                        "Broker/Fetch",
                        #"{"topic": "t", "partition": 0, "offset": "0", "maxWaitMs": 500}"#,
                        broker: broker, on: cluster)
                    #expect(answer.body["highWatermark"] as? String == "3", "\(answer)")
                    let records = try #require(answer.body["records"] as? [[String: Any]])
                    let values = records.map { ($0["value"] as? [String: Any])?["text"] as? String }
                    #expect(values == ["from 1", "from 2", "from 3"])
                    let first = try #require(records.first)
                    #expect((first["key"] as? [String: Any])?["text"] as? String == "k")
                    let headers = first["headers"] as? [[String: Any]]
                    #expect(headers?.first?["name"] as? String == "h")
                }
            }
        }
    }
}
