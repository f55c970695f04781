// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What epochs and rewards say: types, constants, events and errors
abstract contract EpochRewardsBase {
    /// @notice Names the first committees, and new ones after a long silence.
    bytes32 public constant GOVERNOR_ROLE = keccak256("GOVERNOR_ROLE");
    /// @notice EIP-712 type of what a committee signs. `parent` is the struct hash of the outcome before, so that a
    /// signature counts after that one only.
    bytes32 public constant OUTCOME_TYPEHASH = keccak256(
        "Outcome(bytes32 parent,uint64 firstEpoch,uint64 lastEpoch,bytes32 rewardRoot,uint128 cumulativeTotal,"
        "bytes32 slashRoot,bytes32 dataHash,bytes32 nextCommittee,bytes32 nextDisputeCommittee)"
    );

    // How far the outcome of a place in the ring is. Constants of this contract are internal: getters for all of them
    // would not fit into what a chain takes.
    uint8 internal constant STATUS_NONE = 0;
    uint8 internal constant STATUS_PENDING = 1;
    // Named wrong; the dispute committee's window runs.
    uint8 internal constant STATUS_DISPUTED = 2;
    // The dispute committee stayed silent: nothing stands here until it has signed.
    uint8 internal constant STATUS_LAPSED = 3;
    // The dispute committee signed what the committee had.
    uint8 internal constant STATUS_UPHELD = 4;
    // The dispute committee signed another one.
    uint8 internal constant STATUS_REPLACED = 5;
    uint8 internal constant STATUS_FINAL = 6;

    // Kinds of reward: a Container's, an Indexer's, a licence owner's. A leaf names its kind; the contract
    // judges none.
    uint8 internal constant KIND_CONTAINER = 1;
    uint8 internal constant KIND_INDEXER = 2;
    uint8 internal constant KIND_LICENCES = 4;

    // Longest window, in seconds.
    uint64 internal constant MAX_WINDOW = 30 days;
    // Longest vesting, in seconds.
    uint64 internal constant MAX_VESTING_PERIOD = 4 * 365 days;
    // Most outcomes that can be pending at a time.
    uint16 internal constant MAX_RING = 4096;

    /// @notice Parameters of a deployment. None of them can change.
    struct Config {
        address token;
        address registry;
        address admin;
        /// Epoch e lasts from genesisTime + e * epochSeconds on.
        uint64 genesisTime;
        uint64 epochSeconds;
        /// The first epoch that is rewarded; halvings count from it.
        uint64 startEpoch;
        /// Emission of an epoch, halved every `halvingEpochs`.
        uint128 emissionPerEpoch;
        uint64 halvingEpochs;
        /// What an epoch's total may grow by above the emission, for rewards paid out of fees.
        uint128 deliveryPerEpoch;
        uint64 disputeWindow;
        uint64 resolveWindow;
        /// How long nothing must have happened before the governor may name new committees.
        uint64 resetAfter;
        uint128 disputeBond;
        uint128 disputeReward;
        /// What a signer of a wrong outcome loses.
        uint128 signerPenalty;
        /// What a claim pays at once, in basis points; the rest vests.
        uint16 immediateBps;
        uint64 vestingPeriod;
        /// Places for pending outcomes.
        uint16 ringSize;
    }

    /// @notice The outcome of some epochs. Roots of zero stand for empty trees, `dataHash` for what the outcome was
    /// computed from. `cumulativeTotal` is the sum of everything ever rewarded.
    /// A committee is named by `keccak256(abi.encodePacked(members))` of the `address[]` in the order of the draw: the
    /// hash of the members as words of 32 bytes.
    struct Outcome {
        uint64 firstEpoch;
        uint64 lastEpoch;
        bytes32 rewardRoot;
        uint128 cumulativeTotal;
        bytes32 slashRoot;
        bytes32 dataHash;
        bytes32 nextCommittee;
        bytes32 nextDisputeCommittee;
    }

    /// @notice A posted outcome, whole, as its event tells it; `parent` is the digest of the one before.
    struct Posted {
        uint64 sequence;
        bytes32 parent;
        Outcome outcome;
        uint64 postedAt;
        uint32 signers;
    }

    struct Dispute {
        address by;
        uint64 until;
    }

    /// @notice An outcome that another one replaced, and who had signed it: bit i stands for member i.
    struct Wrong {
        bytes32 digest;
        bytes32 committee;
        uint32 signers;
    }

    /// @notice A leaf of the tree of rewards.
    struct Reward {
        uint8 kind;
        bytes32 key;
        address account;
        uint128 cumulative;
    }

    /// @notice A leaf of the tree of slashes.
    struct Slash {
        uint64 lastEpoch;
        bytes32 nodeKey;
        uint128 amount;
        bytes32 evidence;
    }

    /// @notice Everything about a posted outcome but its parent, which is the digest of the last one posted before with
    /// the sequence before (with the same sequence, after {CommitteesReset}), and its first epoch, which follows from that
    /// (one more than its last epoch; the same first epoch after {CommitteesReset}; 0 for the very first). `numbers` is
    /// last epoch (64 bits), signers (32), time of posting (32), total (128).
    event OutcomePosted(
        uint64 indexed sequence,
        uint256 numbers,
        bytes32 rewardRoot,
        bytes32 slashRoot,
        bytes32 dataHash,
        bytes32 nextCommittee,
        bytes32 nextDisputeCommittee
    );
    event OutcomeFinal(uint64 indexed sequence, uint64 indexed lastEpoch, bytes32 rewardRoot, uint128 cumulativeTotal);
    event OutcomeDisputed(uint64 indexed sequence, address indexed by, uint64 until);
    /// @notice The dispute committee has spoken; `right` equals `posted` where that one stands.
    event DisputeResolved(uint64 indexed sequence, bytes32 posted, bytes32 right);
    event DisputeLapsed(uint64 indexed sequence);
    /// @notice A pending outcome fell with one before it.
    event OutcomeFell(uint64 indexed sequence);
    event CommitteesReset(uint64 indexed sequence, bytes32 committee, bytes32 disputeCommittee);
    event Funded(address indexed from, uint128 emission, uint128 delivery, uint128 bounties);
    event CreditAdded(address indexed account, uint256 amount);
    event CreditWithdrawn(address indexed account, uint256 amount);
    /// @notice `paid` at once; the rest of `amount` vests.
    event RewardClaimed(uint8 indexed kind, bytes32 indexed key, address indexed account, uint128 amount, uint128 paid);
    event RewardReleased(uint8 indexed kind, bytes32 indexed key, address indexed account, uint128 amount);
    event RewardSeized(bytes32 indexed nodeKey, uint128 unclaimed, uint128 vesting, bytes32 evidence);
    event SlashExecuted(bytes32 indexed nodeKey, uint128 amount, uint128 taken, bytes32 evidence);
    event SignerSlashed(uint64 indexed sequence, address indexed signer, bytes32 indexed nodeKey, uint128 taken);

    /// @notice A packed post is shorter than what precedes its signatures.
    error BadPost(uint256 length);
    /// @notice The outcome given is not the one on record at its place.
    error NotOnRecord(uint256 sequence);
    /// @notice The place of this outcome is taken: it was posted already.
    error AlreadyPosted(uint256 sequence);
    /// @notice All places hold outcomes that are not final yet: finalize first.
    error RingFull();
    /// @notice The outcome must begin with this epoch, and not end before it.
    error WrongEpochs(uint256 expectedFirst);
    /// @notice The last epoch ends only then.
    error EpochNotOver(uint256 endsAt);
    /// @notice The total falls, or grows by more than the epochs allow.
    error AboveCap(uint256 cumulativeTotal, uint256 most);
    /// @notice Signatures and members given are not those of the named committee.
    error WrongCommittee(bytes32 expected, bytes32 found);
    /// @notice Fewer than two thirds of the committee signed.
    error TooFewSignatures(uint256 signed, uint256 members);
    /// @notice The outcome is not in a state for this.
    error WrongStatus(uint256 sequence, uint256 status);
    /// @notice Only in their order: this one is next.
    error NotNext(uint64 expected);
    /// @notice Only from the time `from` on.
    error TooEarly(uint64 from);
    /// @notice What the outcome rewards is not covered by emission and fees that were paid in.
    error NotCovered(uint128 cumulativeTotal, uint256 covered);
    /// @notice Only once.
    error AlreadyBootstrapped();
    /// @notice The leaf is not under the root that counts.
    error BadProof();
    /// @notice Nothing to claim, release, withdraw or take.
    error NothingToClaim();
    /// @notice The slash was executed already.
    error AlreadySlashed(bytes32 evidence);
    /// @notice The reward is not the slashed node's.
    error WrongNode(bytes32 nodeKey);
    /// @notice The member did not sign the wrong outcome, or is not the owner of this Checker.
    error NotASigner(address member);
    /// @notice An amount of zero where there must be one.
    error ZeroAmount();
    /// @notice An address of zero, or of this contract, where tokens would be lost.
    error BadAddress();
    /// @notice A parameter outside its bounds.
    error OutOfBounds();
}
