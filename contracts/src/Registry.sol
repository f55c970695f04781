// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IContainerRegistry} from "./IContainerRegistry.sol";
import {INodeRegistry} from "./INodeRegistry.sol";
import {TokenPull} from "./TokenPull.sol";

/// @title Who serves the network, and what they stand to lose
/// @notice Containers, Indexers and Checkers register here with a node key, an endpoint, a commitment to their
/// hardware and a stake. A node is named by its ed25519 public key. Whoever registers a key is its owner; that the
/// node really holds the key is proven off chain, where peers dial by it.
///
/// An app registers like a node: its key is {appId} of its name, its endpoint is the name itself, its fingerprint the
/// hash of what is published. Stake, unbonding and slashing are the same.
///
/// Stake leaves only through unbonding, and can be slashed until it is withdrawn. A node whose stake falls below
/// the minimum of its kind is jailed until it is topped up. All amounts are in the token's smallest unit, all times
/// in unix seconds. Pausing stops what brings money in, never what lets it out.
contract Registry is AccessControl, Pausable, ReentrancyGuardTransient, IContainerRegistry, INodeRegistry {
    using SafeERC20 for IERC20;
    using TokenPull for IERC20;

    /// @notice Sets parameters and pauses.
    bytes32 public constant GOVERNOR_ROLE = keccak256("GOVERNOR_ROLE");
    /// @notice Takes stake for a proven fault.
    bytes32 public constant SLASHER_ROLE = keccak256("SLASHER_ROLE");
    /// @notice Credits rewards, paying for them.
    bytes32 public constant REWARDER_ROLE = keccak256("REWARDER_ROLE");

    uint8 public constant KIND_CONTAINER = 1;
    uint8 public constant KIND_INDEXER = 2;
    uint8 public constant KIND_CHECKER = 3;
    uint8 public constant KIND_APP = 4;

    /// @notice What the keys of apps begin with, and those of nobody else.
    bytes8 public constant APP_TAG = "must-app";

    uint8 public constant STATUS_NONE = 0;
    uint8 public constant STATUS_ACTIVE = 1;
    uint8 public constant STATUS_JAILED = 2;
    /// @notice Leaving, while something is unbonding; left, once it is withdrawn.
    uint8 public constant STATUS_LEFT = 3;

    /// @notice Longest endpoint, in bytes.
    uint256 public constant MAX_ENDPOINT_BYTES = 256;
    /// @notice Largest page of {nodes}.
    uint256 public constant MAX_PAGE = 1000;
    /// @notice Longest unbonding period that can be set.
    uint64 public constant MAX_UNBONDING_PERIOD = 365 days;

    /// @notice One node. The order of the fields fills storage slots without a gap.
    struct Node {
        address owner;
        uint8 kind;
        uint8 status;
        uint128 stake;
        uint128 unbonding;
        uint64 unbondAt;
        uint128 rewards;
        uint64 registeredAt;
        bytes32 fingerprint;
        string endpoint;
    }

    /// @notice The token of stakes and rewards.
    IERC20 public immutable token;
    /// @notice How long stake stays slashable after its owner asked for it; counts for requests made from now on.
    uint64 public unbondingPeriod;
    /// @notice Where slashed tokens go.
    address public penaltyPool;
    /// @notice Slashed tokens that wait here for {collectPenalties}: a slash moves no tokens, so that it costs little and
    /// no pool can refuse it. In one slot with the pool; the whole supply is far below 2^96.
    uint96 public penalties;
    /// @notice Least stake of an active node, by kind.
    mapping(uint8 kind => uint128) public minStake;
    /// @notice Whether a piece of evidence was already used against a node.
    mapping(bytes32 nodeKey => mapping(bytes32 evidence => bool)) public evidenceUsed;

    mapping(bytes32 nodeKey => Node) private _nodes;
    /// Keys in the order of their first registration. Nothing is ever removed, so that a reader who pages through
    /// the list while it grows misses nobody.
    mapping(uint8 kind => bytes32[]) private _keys;

    event NodeRegistered(
        bytes32 indexed nodeKey,
        uint8 indexed kind,
        address indexed owner,
        string endpoint,
        bytes32 fingerprint,
        uint128 stake
    );
    event NodeUpdated(bytes32 indexed nodeKey, string endpoint, bytes32 fingerprint);
    event StakeAdded(bytes32 indexed nodeKey, uint128 amount, uint128 stake);
    event UnbondRequested(bytes32 indexed nodeKey, uint128 amount, uint128 unbonding, uint64 unbondAt);
    event UnbondCancelled(bytes32 indexed nodeKey, uint128 amount, uint128 stake);
    event Withdrawn(bytes32 indexed nodeKey, address indexed owner, uint128 amount);
    event NodeSlashed(
        bytes32 indexed nodeKey, uint128 fromRewards, uint128 fromStake, uint128 fromUnbonding, bytes32 evidence
    );
    event NodeJailed(bytes32 indexed nodeKey, uint128 stake, uint128 minStake);
    event NodeReinstated(bytes32 indexed nodeKey, uint128 stake);
    event NodeLeft(bytes32 indexed nodeKey, uint128 unbonding, uint64 unbondAt);
    event RewardCredited(bytes32 indexed nodeKey, uint128 amount);
    event RewardClaimed(bytes32 indexed nodeKey, address indexed owner, uint128 amount);
    event MinStakeSet(uint8 indexed kind, uint128 amount);
    event UnbondingPeriodSet(uint64 period);
    event PenaltyPoolSet(address pool);
    event PenaltiesCollected(address indexed pool, uint256 amount);

    /// @notice The kind is none of Container (1), Indexer (2), Checker (3), App (4).
    error UnknownKind(uint8 kind);
    /// @notice No node was ever registered under this key.
    error UnknownNode(bytes32 nodeKey);
    /// @notice Only the node's owner may do this.
    error NotOwner(bytes32 nodeKey, address caller);
    /// @notice The key is registered already, or belongs to another owner or kind.
    error KeyTaken(bytes32 nodeKey);
    /// @notice A node key of zero.
    error ZeroKey();
    /// @notice The key of an app is not {appId} of its name; or a node's begins as only apps' do.
    error WrongKey(bytes32 nodeKey);
    /// @notice An address of zero, or of this contract, where tokens would be lost.
    error BadAddress();
    /// @notice An amount of zero.
    error ZeroAmount();
    /// @notice The stake would be, or is, less than the kind's minimum. To take everything out, leave.
    error BelowMinStake(uint128 stake, uint128 minStake);
    /// @notice The endpoint is longer than {MAX_ENDPOINT_BYTES}.
    error EndpointTooLong(uint256 length);
    /// @notice The node has less than that at stake.
    error InsufficientStake(uint128 stake, uint128 amount);
    /// @notice The node has left, or was never there.
    error NotServing(bytes32 nodeKey);
    /// @notice Stake is still unbonding: withdraw it or cancel first.
    error StillUnbonding(bytes32 nodeKey);
    /// @notice The unbonding period ends only at `unbondAt`.
    error Unbonding(uint64 unbondAt);
    /// @notice There is nothing unbonding, or no reward.
    error NothingToTake(bytes32 nodeKey);
    /// @notice The node was slashed for this before; or the evidence is zero.
    error EvidenceUsed(bytes32 evidence);
    /// @notice A parameter outside its bounds.
    error OutOfBounds();

    /// @param token_ the token of stakes and rewards
    /// @param admin gets the admin and the governor role; nobody gets the slasher's or the rewarder's
    /// @param minStake_ least stakes of Container, Indexer, Checker, App, in this order
    /// @param unbondingPeriod_ seconds
    /// @param penaltyPool_ where slashed tokens go
    constructor(
        address token_,
        address admin,
        uint128[4] memory minStake_,
        uint64 unbondingPeriod_,
        address penaltyPool_
    ) {
        if (token_ == address(0) || admin == address(0)) revert BadAddress();
        token = IERC20(token_);
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(GOVERNOR_ROLE, admin);
        for (uint8 i = 0; i < KIND_APP; ++i) {
            _setMinStake(i + 1, minStake_[i]);
        }
        _setUnbondingPeriod(unbondingPeriod_);
        _setPenaltyPool(penaltyPool_);
    }

    // ---- joining and serving -------------------------------------------------------------------------------------

    /// @notice Registers a node and takes its stake. The caller becomes its owner. A key that left can come back,
    /// under the same owner and kind, once nothing of it is unbonding any more.
    function register(uint8 kind, bytes32 nodeKey, string calldata endpoint, bytes32 fingerprint, uint128 stake)
        external
        whenNotPaused
        nonReentrant
    {
        _register(kind, nodeKey, endpoint, fingerprint, stake);
    }

    /// @notice {register} with an ERC-2612 approval of `stake` in the same transaction.
    function registerWithPermit(
        uint8 kind,
        bytes32 nodeKey,
        string calldata endpoint,
        bytes32 fingerprint,
        uint128 stake,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external whenNotPaused nonReentrant {
        token.tryPermit(stake, deadline, v, r, s);
        _register(kind, nodeKey, endpoint, fingerprint, stake);
    }

    /// @notice Changes where a node is found and what hardware it commits to; of an app, what is published of it.
    function update(bytes32 nodeKey, string calldata endpoint, bytes32 fingerprint) external {
        Node storage n = _owned(nodeKey);
        if (n.status == STATUS_LEFT) revert NotServing(nodeKey);
        _checkKey(n.kind, nodeKey, endpoint);
        _setEndpoint(n, endpoint);
        n.fingerprint = fingerprint;
        emit NodeUpdated(nodeKey, endpoint, fingerprint);
    }

    /// @notice Adds to a node's stake; anybody may. A jailed node whose stake is whole again serves again.
    function addStake(bytes32 nodeKey, uint128 amount) external whenNotPaused nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Node storage n = _known(nodeKey);
        if (n.status == STATUS_LEFT) revert NotServing(nodeKey);
        uint128 stake = n.stake + amount;
        n.stake = stake;
        emit StakeAdded(nodeKey, amount, stake);
        _restore(nodeKey, n, stake);
        token.pull(msg.sender, amount);
    }

    // ---- getting out ---------------------------------------------------------------------------------------------

    /// @notice Begins to unbond a part of the stake; at least the minimum must remain. Asking again adds to what is
    /// unbonding and starts the period anew for all of it.
    function requestUnbond(bytes32 nodeKey, uint128 amount) external {
        if (amount == 0) revert ZeroAmount();
        Node storage n = _owned(nodeKey);
        if (n.status == STATUS_LEFT) revert NotServing(nodeKey);
        uint128 stake = n.stake;
        if (amount > stake) revert InsufficientStake(stake, amount);
        uint128 least = minStake[n.kind];
        if (stake - amount < least) revert BelowMinStake(stake - amount, least);
        (uint128 unbonding, uint64 unbondAt) = _unbond(n, amount);
        emit UnbondRequested(nodeKey, amount, unbonding, unbondAt);
    }

    /// @notice Stops serving and begins to unbond the whole stake. A jailed node may leave, too.
    function leave(bytes32 nodeKey) external {
        Node storage n = _owned(nodeKey);
        if (n.status == STATUS_LEFT) revert NotServing(nodeKey);
        n.status = STATUS_LEFT;
        (uint128 unbonding, uint64 unbondAt) = _unbond(n, n.stake);
        emit NodeLeft(nodeKey, unbonding, unbondAt);
    }

    /// @notice Puts everything that is unbonding back to stake. A node that was leaving stays: active if its stake
    /// reaches the minimum, else jailed.
    function cancelUnbond(bytes32 nodeKey) external {
        Node storage n = _owned(nodeKey);
        uint128 amount = n.unbonding;
        if (amount == 0) revert NothingToTake(nodeKey);
        uint128 stake = n.stake + amount;
        n.unbonding = 0;
        n.unbondAt = 0;
        n.stake = stake;
        emit UnbondCancelled(nodeKey, amount, stake);
        if (n.status == STATUS_LEFT) {
            n.status = STATUS_JAILED;
            uint128 least = minStake[n.kind];
            if (stake < least) emit NodeJailed(nodeKey, stake, least);
        }
        _restore(nodeKey, n, stake);
    }

    /// @notice Pays out what has finished unbonding, to the owner.
    function withdraw(bytes32 nodeKey) external nonReentrant {
        Node storage n = _owned(nodeKey);
        uint128 amount = n.unbonding;
        if (amount == 0) revert NothingToTake(nodeKey);
        if (block.timestamp < n.unbondAt) revert Unbonding(n.unbondAt);
        n.unbonding = 0;
        n.unbondAt = 0;
        emit Withdrawn(nodeKey, msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Pays out a node's rewards, to the owner.
    function claimReward(bytes32 nodeKey) external nonReentrant {
        Node storage n = _owned(nodeKey);
        uint128 amount = n.rewards;
        if (amount == 0) revert NothingToTake(nodeKey);
        n.rewards = 0;
        emit RewardClaimed(nodeKey, msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    // ---- reward and punishment -----------------------------------------------------------------------------------

    /// @notice Credits a reward to a node, paid by the caller. A node that has left still gets what it earned.
    function creditReward(bytes32 nodeKey, uint128 amount) external onlyRole(REWARDER_ROLE) whenNotPaused nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Node storage n = _known(nodeKey);
        n.rewards += amount;
        emit RewardCredited(nodeKey, amount);
        token.pull(msg.sender, amount);
    }

    /// @notice Takes up to `amount`: unclaimed rewards first, then stake, then what is unbonding, and never more than
    /// there is. Below the minimum stake the node is jailed. The same evidence serves against a node once, so that a
    /// slasher who does not know whether a transaction went through can safely send it again.
    /// @return taken what was really taken
    function slash(bytes32 nodeKey, uint128 amount, bytes32 evidence)
        external
        onlyRole(SLASHER_ROLE)
        nonReentrant
        returns (uint128 taken)
    {
        if (amount == 0) revert ZeroAmount();
        if (evidence == 0 || evidenceUsed[nodeKey][evidence]) revert EvidenceUsed(evidence);
        Node storage n = _known(nodeKey);
        evidenceUsed[nodeKey][evidence] = true;

        uint128 left = amount;
        uint128 fromRewards = _min(left, n.rewards);
        left -= fromRewards;
        uint128 fromStake = _min(left, n.stake);
        left -= fromStake;
        uint128 fromUnbonding = _min(left, n.unbonding);
        left -= fromUnbonding;
        n.rewards -= fromRewards;
        n.unbonding -= fromUnbonding;
        uint128 stake = n.stake - fromStake;
        n.stake = stake;
        emit NodeSlashed(nodeKey, fromRewards, fromStake, fromUnbonding, evidence);

        uint128 least = minStake[n.kind];
        if (n.status == STATUS_ACTIVE && stake < least) {
            n.status = STATUS_JAILED;
            emit NodeJailed(nodeKey, stake, least);
        }
        taken = amount - left;
        if (taken != 0) penalties += SafeCast.toUint96(taken);
    }

    /// @notice Sends what was slashed to the penalty pool; anybody may.
    function collectPenalties() external nonReentrant {
        uint96 amount = penalties;
        if (amount == 0) revert ZeroAmount();
        penalties = 0;
        address pool = penaltyPool;
        emit PenaltiesCollected(pool, amount);
        token.safeTransfer(pool, amount);
    }

    // ---- the governor --------------------------------------------------------------------------------------------

    /// @notice Sets the least stake of a kind. It counts whenever stake is next looked at: at registration, unbonding,
    /// slashing and topping up. A rise jails nobody by itself. With zero, a kind registers for nothing, and anybody
    /// may fill its list: for development, or where something else than stake admits nodes.
    function setMinStake(uint8 kind, uint128 amount) external onlyRole(GOVERNOR_ROLE) {
        _setMinStake(kind, amount);
    }

    /// @notice Sets the unbonding period, of requests made from now on.
    function setUnbondingPeriod(uint64 period) external onlyRole(GOVERNOR_ROLE) {
        _setUnbondingPeriod(period);
    }

    /// @notice Sets where slashed tokens go, those that still wait here included.
    function setPenaltyPool(address pool) external onlyRole(GOVERNOR_ROLE) {
        _setPenaltyPool(pool);
    }

    /// @notice Stops registration, added stake and rewards.
    function pause() external onlyRole(GOVERNOR_ROLE) {
        _pause();
    }

    /// @notice Ends a pause.
    function unpause() external onlyRole(GOVERNOR_ROLE) {
        _unpause();
    }

    // ---- views ---------------------------------------------------------------------------------------------------

    /// @notice A node; all zero if the key was never registered.
    function node(bytes32 nodeKey) external view returns (Node memory) {
        return _nodes[nodeKey];
    }

    /// @notice How many keys of a kind were ever registered, those that left included.
    function nodeCount(uint8 kind) external view returns (uint256) {
        return _keys[kind].length;
    }

    /// @notice A page of the nodes of a kind, in the order of registration; those that left included. At most
    /// {MAX_PAGE} entries, fewer at the end of the list, none beyond it.
    function nodes(uint8 kind, uint256 from, uint256 count)
        external
        view
        returns (bytes32[] memory keys, Node[] memory page)
    {
        bytes32[] storage all = _keys[kind];
        uint256 size = from < all.length ? all.length - from : 0;
        if (size > count) size = count;
        if (size > MAX_PAGE) size = MAX_PAGE;
        keys = new bytes32[](size);
        page = new Node[](size);
        for (uint256 i = 0; i < size; ++i) {
            keys[i] = all[from + i];
            page[i] = _nodes[keys[i]];
        }
    }

    /// @notice The key of the app of a name: eight bytes that no node's key begins with, then the first 24 of the name's
    /// keccak256.
    function appId(string calldata name) public pure returns (bytes32) {
        return bytes32(APP_TAG) | (keccak256(bytes(name)) >> 64);
    }

    /// @inheritdoc INodeRegistry
    function identity(bytes32 nodeKey) external view returns (address owner, uint8 kind, uint8 status) {
        Node storage n = _nodes[nodeKey];
        return (n.owner, n.kind, n.status);
    }

    /// @inheritdoc IContainerRegistry
    function activeContainerOwner(bytes32 nodeKey) external view returns (address) {
        Node storage n = _nodes[nodeKey];
        return n.kind == KIND_CONTAINER && n.status == STATUS_ACTIVE ? n.owner : address(0);
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    function _register(uint8 kind, bytes32 nodeKey, string calldata endpoint, bytes32 fingerprint, uint128 stake)
        private
    {
        if (kind < KIND_CONTAINER || kind > KIND_APP) revert UnknownKind(kind);
        if (nodeKey == 0) revert ZeroKey();
        _checkKey(kind, nodeKey, endpoint);
        uint128 least = minStake[kind];
        if (stake < least) revert BelowMinStake(stake, least);

        Node storage n = _nodes[nodeKey];
        if (n.status == STATUS_NONE) {
            n.owner = msg.sender;
            n.kind = kind;
            _keys[kind].push(nodeKey);
        } else {
            if (n.status != STATUS_LEFT || n.owner != msg.sender || n.kind != kind) revert KeyTaken(nodeKey);
            if (n.unbonding != 0) revert StillUnbonding(nodeKey);
        }
        n.status = STATUS_ACTIVE;
        n.stake = stake;
        n.registeredAt = uint64(block.timestamp);
        n.fingerprint = fingerprint;
        _setEndpoint(n, endpoint);
        emit NodeRegistered(nodeKey, kind, msg.sender, endpoint, fingerprint, stake);
        token.pull(msg.sender, stake);
    }

    /// Apps and nodes never meet under one key.
    function _checkKey(uint8 kind, bytes32 nodeKey, string calldata endpoint) private pure {
        bool right = kind == KIND_APP ? nodeKey == appId(endpoint) : (nodeKey >> 192) != (bytes32(APP_TAG) >> 192);
        if (!right) revert WrongKey(nodeKey);
    }

    /// Moves stake to unbonding and starts the period.
    function _unbond(Node storage n, uint128 amount) private returns (uint128 unbonding, uint64 unbondAt) {
        unbonding = n.unbonding + amount;
        unbondAt = uint64(block.timestamp) + unbondingPeriod;
        n.stake -= amount;
        n.unbonding = unbonding;
        n.unbondAt = unbondAt;
    }

    /// Frees a jailed node whose stake is whole.
    function _restore(bytes32 nodeKey, Node storage n, uint128 stake) private {
        if (n.status == STATUS_JAILED && stake >= minStake[n.kind]) {
            n.status = STATUS_ACTIVE;
            emit NodeReinstated(nodeKey, stake);
        }
    }

    function _setEndpoint(Node storage n, string calldata endpoint) private {
        if (bytes(endpoint).length > MAX_ENDPOINT_BYTES) revert EndpointTooLong(bytes(endpoint).length);
        n.endpoint = endpoint;
    }

    function _setMinStake(uint8 kind, uint128 amount) private {
        if (kind < KIND_CONTAINER || kind > KIND_APP) revert UnknownKind(kind);
        minStake[kind] = amount;
        emit MinStakeSet(kind, amount);
    }

    function _setUnbondingPeriod(uint64 period) private {
        if (period == 0 || period > MAX_UNBONDING_PERIOD) revert OutOfBounds();
        unbondingPeriod = period;
        emit UnbondingPeriodSet(period);
    }

    function _setPenaltyPool(address pool) private {
        if (pool == address(0) || pool == address(this)) revert BadAddress();
        penaltyPool = pool;
        emit PenaltyPoolSet(pool);
    }

    function _known(bytes32 nodeKey) private view returns (Node storage n) {
        n = _nodes[nodeKey];
        if (n.status == STATUS_NONE) revert UnknownNode(nodeKey);
    }

    function _owned(bytes32 nodeKey) private view returns (Node storage n) {
        n = _known(nodeKey);
        if (n.owner != msg.sender) revert NotOwner(nodeKey, msg.sender);
    }

    function _min(uint128 a, uint128 b) private pure returns (uint128) {
        return a < b ? a : b;
    }
}
