package import Essentials
internal import HashTreeCollections

/// A broker's wish to join the cluster.
package struct RegistrationRequest: Equatable, Sendable {
    package var clusterID: String
    package var broker: NodeID
    package var incarnation: UniqueID
    package var host: String
    package var port: Int
    package var rack: String?
    /// Log directories that it has opened.
    package var directories: [DirectoryID]
    /// Log directories that it has and can't use, as far as it knows their ids.
    package var offlineDirectories: [DirectoryID]
    /// How many more it has and can't open.
    package var missingDirectories: Int
    /// The epoch under which it last stopped cleanly; `none` without proof.
    package var previousEpoch: BrokerEpoch
    /// Levels of the metadata records that its release understands, the highest and the lowest.
    package var maxFeatureLevel: Int32
    package var minFeatureLevel: Int32

    package init(
        clusterID: String, broker: NodeID, incarnation: UniqueID, host: String, port: Int,
        rack: String? = nil, directories: [DirectoryID], offlineDirectories: [DirectoryID] = [],
        missingDirectories: Int = 0, previousEpoch: BrokerEpoch = .none,
        maxFeatureLevel: Int32 = 0, minFeatureLevel: Int32 = 0
    ) {
        self.clusterID = clusterID
        self.broker = broker
        self.incarnation = incarnation
        self.host = host
        self.port = port
        self.rack = rack
        self.directories = directories
        self.offlineDirectories = offlineDirectories
        self.missingDirectories = missingDirectories
        self.previousEpoch = previousEpoch
        self.maxFeatureLevel = maxFeatureLevel
        self.minFeatureLevel = minFeatureLevel
    }
}

package struct RegistrationReply: Equatable, Sendable {
    package var epoch: BrokerEpoch
    /// Partitions that this broker remains the only candidate to lead, although it can't prove that
    /// it stopped cleanly with their logs in use: with `flush.policy=commit` nothing acknowledged is missing there.
    package var lastCandidateOf = 0
}

package struct HeartbeatRequest: Equatable, Sendable {
    package var broker: NodeID
    package var epoch: BrokerEpoch
    /// End, exclusive, of the metadata it has applied.
    package var appliedOffset: Offset
    package var wantsFence: Bool
    package var wantsShutdown: Bool

    package init(
        broker: NodeID, epoch: BrokerEpoch, appliedOffset: Offset, wantsFence: Bool = false,
        wantsShutdown: Bool = false
    ) {
        self.broker = broker
        self.epoch = epoch
        self.appliedOffset = appliedOffset
        self.wantsFence = wantsFence
        self.wantsShutdown = wantsShutdown
    }
}

package struct HeartbeatReply: Equatable, Sendable {
    package var isFenced: Bool
    /// It has applied its own registration.
    package var isCaughtUp: Bool
    package var shouldShutDown: Bool

    package init(isFenced: Bool, isCaughtUp: Bool, shouldShutDown: Bool = false) {
        self.isFenced = isFenced
        self.isCaughtUp = isCaughtUp
        self.shouldShutDown = shouldShutDown
    }
}

extension ControllerState {
    /// Gives a broker process its epoch.
    ///
    /// It starts fenced, and outside every ISR.
    ///
    /// The same incarnation asking again gets the same epoch. Another one is refused while the
    /// session lasts, unless it proves that its predecessor has stopped.
    package mutating func registerBroker(
        _ request: RegistrationRequest, now: MonotonicTime
    ) throws(ControllerError) -> ControllerResult<RegistrationReply> {
        try check(request)
        var draft = MetadataDraft(image: image, options: options)
        let known = image.brokers[request.broker]
        if let known, known.incarnation == request.incarnation {
            touch(known.id, epoch: known.epoch, now: now)
            return draft.result(RegistrationReply(epoch: known.epoch))
        }
        let stoppedCleanly = known.map { request.previousEpoch == $0.epoch } ?? false
        if let known, !stoppedCleanly, hasValidSession(known.id, at: now) {
            throw ControllerError(
                .duplicateBrokerRegistration,
                "broker \(known.id) is alive at \(known.host):\(known.port); give this one another "
                    + "node.id, or if it replaces that process, wait for its session to end "
                    + "(at most \(options.sessionTimeout))")
        }

        let standing = DirectoryStanding(of: request, after: known)
        // Without: no proof that everything on its disks is as the last incarnation left it.
        let isTrusted = stoppedCleanly && !standing.hasLost && !standing.hasNew
        // A crash alone loses nothing acknowledged under `flush.policy=commit`. So the very last
        // replica that held all of it stays the candidate: nobody else could be better.
        let mayStayLast = !standing.hasLost
        let tellsOffline = image.featureLevel >= MetadataFeatures.offlineReplicas
        let levels = request.minFeatureLevel...request.maxFeatureLevel
        var reply = RegistrationReply(epoch: .none)
        draft.retire(
            request.broker,
            with: { offset in
                reply.epoch = BrokerEpoch(offset.rawValue)
                return .registerBroker(
                    BrokerRegistration(
                        id: request.broker, incarnation: request.incarnation, epoch: reply.epoch,
                        host: request.host, port: request.port, rack: request.rack,
                        directories: request.directories + (tellsOffline ? [] : standing.offline),
                        offlineDirectories: tellsOffline ? standing.offline : [],
                        featureLevels: image.featureLevel >= MetadataFeatures.registrationLevels
                            ? levels : nil))
            }
        ) { _, update in
            // Whatever was found of its logs is found anew. How it stopped says nothing about a log that
            // could not be used then.
            let wasOffline = update.offlineReplicas.contains(request.broker)
            update.offlineReplicas.removeAll { $0 == request.broker }
            if isTrusted, !wasOffline { return }
            let isLast = mayStayLast && update.state.isOnlyCandidate(request.broker)
            if isLast { reply.lastCandidateOf += 1 } else { update.distrusted = request.broker }
        }
        var session = Session(epoch: reply.epoch, deadline: now + options.sessionTimeout)
        if request.maxFeatureLevel > 0 { session.featureLevels = levels }
        sessions[request.broker] = session
        return draft.result(reply)
    }

    private func check(_ request: RegistrationRequest) throws(ControllerError) {
        guard request.clusterID == options.clusterID else {
            throw ControllerError(
                .inconsistentClusterID,
                "broker \(request.broker) belongs to cluster '\(request.clusterID)', this one is "
                    + "'\(options.clusterID)'; point it at its own controllers, or format its "
                    + "storage for this cluster")
        }
        guard request.maxFeatureLevel >= image.featureLevel else {
            throw ControllerError(
                .unsupportedVersion,
                "the cluster's metadata is at level \(image.featureLevel), and broker "
                    + "\(request.broker) understands \(request.maxFeatureLevel) at most; upgrade it"
            )
        }
        // A cluster without a level is about to get the first.
        guard request.minFeatureLevel <= max(image.featureLevel, 1) else {
            throw ControllerError(
                .unsupportedVersion,
                "the cluster's metadata is at level \(image.featureLevel), and broker "
                    + "\(request.broker) understands no level below \(request.minFeatureLevel); "
                    + "raise the cluster's \(MetadataFeatures.metadataVersion) first")
        }
        guard request.broker.rawValue >= 0, !options.controllers.contains(request.broker) else {
            throw ControllerError(
                .invalidRequest,
                "node.id \(request.broker) can't be a broker's: it is negative, or a controller's")
        }
        guard (1...1000).contains(request.host.utf8.count), (1...65535).contains(request.port),
            request.incarnation != .zero
        else {
            throw ControllerError(
                .invalidRequest, "a registration needs host, port and incarnation id")
        }
        let directories = request.directories + request.offlineDirectories
        guard Set(directories).count == directories.count,
            (0...1000).contains(request.missingDirectories)
        else {
            throw ControllerError(
                .invalidRequest, "a registration lists each log directory once, as open or offline")
        }
        guard (request.rack?.utf8.count ?? 0) <= 1000, directories.count <= 1000,
            (0...request.maxFeatureLevel).contains(request.minFeatureLevel)
        else {
            throw ControllerError(
                .invalidRequest,
                "a registration has a rack of 1000 bytes and 1000 log directories at most, and "
                    + "its lowest feature level is not above its highest")
        }
    }

    /// Hears a broker: renews its session, and grants what it asks for when the time has come.
    package mutating func heartbeat(
        _ request: HeartbeatRequest, now: MonotonicTime
    ) throws(ControllerError) -> ControllerResult<HeartbeatReply> {
        guard let broker = image.brokers[request.broker] else {
            throw ControllerError(
                .brokerIDNotRegistered,
                "broker \(request.broker) is not registered; register it again")
        }
        guard broker.epoch == request.epoch else {
            throw ControllerError(
                .staleBrokerEpoch,
                "broker \(request.broker) is registered with epoch \(broker.epoch), "
                    + "not \(request.epoch); a newer process holds this id")
        }
        touch(broker.id, epoch: broker.epoch, now: now)
        let applied = max(request.appliedOffset, sessions[broker.id]?.appliedOffset ?? 0)
        sessions[broker.id]?.appliedOffset = applied

        var draft = MetadataDraft(image: image, options: options)
        var reply = HeartbeatReply(
            isFenced: broker.fenced, isCaughtUp: applied.rawValue > broker.epoch.rawValue)
        if request.wantsShutdown {
            reply.shouldShutDown = stop(broker, &draft)
            reply.isFenced = draft.image.brokers[broker.id]?.fenced ?? true
        } else if request.wantsFence {
            if !broker.fenced { draft.fence(broker) }
            reply.isFenced = true
        } else if broker.fenced, reply.isCaughtUp {
            draft.append(
                .brokerChange(BrokerChange(id: broker.id, epoch: broker.epoch, fenced: false)))
            draft.settlePartitions(on: broker.id)
            reply.isFenced = false
        }
        return draft.result(reply)
    }

    /// One step of a controlled shutdown; `true` once the broker may go.
    private mutating func stop(
        _ broker: BrokerRegistration, _ draft: inout MetadataDraft
    ) -> Bool {
        if !broker.inControlledShutdown {
            draft.retire(
                broker.id,
                with: { _ in
                    .brokerChange(
                        BrokerChange(
                            id: broker.id, epoch: broker.epoch, inControlledShutdown: true))
                })
            // An earlier decision to that effect may not have become one.
            sessions[broker.id]?.shutdownOffset = draft.nextOffset
        }
        // A controller that took over in the middle has to assume that the moves are recent.
        let moved = sessions[broker.id]?.shutdownOffset ?? draft.nextOffset
        sessions[broker.id]?.shutdownOffset = moved
        let others = draft.image.activeBrokers.map { sessions[$0.id]?.appliedOffset ?? 0 }
        guard draft.image.leaderCount(of: broker.id) == 0, (others.min() ?? .max) >= moved else {
            return false
        }
        if !broker.fenced { draft.fence(broker) }
        sessions[broker.id] = nil
        return true
    }

    private mutating func touch(_ broker: NodeID, epoch: BrokerEpoch, now: MonotonicTime) {
        var session = Session(epoch: epoch, deadline: now)
        if let known = sessions[broker], known.epoch == epoch { session = known }
        session.deadline = now + options.sessionTimeout
        sessions[broker] = session
    }

    /// Forgets a broker that will not come back, and holds no replicas.
    package mutating func unregisterBroker(
        _ id: NodeID, now: MonotonicTime
    ) throws(ControllerError) -> ControllerResult<Void> {
        guard let broker = image.brokers[id] else {
            throw ControllerError(.brokerIDNotRegistered, "broker \(id) is not registered")
        }
        // A fenced one with a session has just been started: the call may be late.
        guard broker.fenced, !hasValidSession(id, at: now) else {
            throw ControllerError(
                .invalidRequest,
                hasValidSession(id, at: now)
                    ? "broker \(id) is alive at \(broker.host):\(broker.port); stop it before "
                        + "unregistering it"
                    : "broker \(id) is silent, but not fenced yet; try again in a moment")
        }
        let hosted = image.partitions(on: id)
        guard hosted.isEmpty else {
            let first = hosted.smallest(3).map {
                "\(image.topics[$0.topic]?.name ?? "?")-\($0.partition)"
            }
            throw ControllerError(
                .invalidRequest,
                "broker \(id) is a replica of \(hosted.count) partitions "
                    + "(\(first.joined(separator: ", "))\(hosted.count > 3 ? " ..." : "")); move them "
                    + "to other brokers or delete their topics first")
        }
        var draft = MetadataDraft(image: image, options: options)
        draft.append(.unregisterBroker(id, epoch: broker.epoch))
        for name in (image.configs[.broker(id)] ?? [:]).keys.sorted() {
            draft.append(
                .config(ConfigChange(resource: .broker(id), name: name, value: nil)))
        }
        sessions[id] = nil
        return draft.result(())
    }
}
