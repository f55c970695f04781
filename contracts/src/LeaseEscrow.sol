// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IContainerRegistry} from "./IContainerRegistry.sol";
import {LeaseEscrowBase} from "./LeaseEscrowBase.sol";
import {ServiceFees} from "./ServiceFees.sol";
import {TokenPull} from "./TokenPull.sol";

/// @title Where the money of leases lies
/// @notice A consumer opens a lease with a deposit. While work runs, the lease's session key signs vouchers over a
/// cumulative amount; the last one counts. A voucher pays what it adds: the network's fee to the network, the rest
/// to the owner of the Container, claimable after a delay. What no voucher promised goes back when the lease closes.
///
/// Everything that can change (fee, delay, challenge window) is frozen for a lease when it opens. Amounts are in
/// the token's smallest unit, times in unix seconds. Pausing stops what brings money in, never what lets it out.
contract LeaseEscrow is LeaseEscrowBase, AccessControl, Pausable, ReentrancyGuardTransient, EIP712 {
    using SafeERC20 for IERC20;
    using ServiceFees for ServiceFees.Queue;
    using TokenPull for IERC20;

    /// @notice What a consumer asks for. `ratePerSecond` is on record for both sides and enforced by their vouchers.
    struct OpenParams {
        bytes32 salt;
        bytes32 container;
        /// Who matched it: only told to those who reward Indexers.
        bytes32 indexer;
        address sessionKey;
        uint128 deposit;
        uint128 ratePerSecond;
        uint64 maxSeconds;
    }

    /// @notice A lease as {lease} shows it. `closingAt` is when the consumer closed, `closedAt` when it was over.
    struct Lease {
        address consumer;
        address payee;
        address sessionKey;
        bytes32 container;
        uint128 deposit;
        uint128 redeemed;
        uint128 ratePerSecond;
        uint64 openedAt;
        uint64 maxSeconds;
        uint64 closingAt;
        uint64 closedAt;
        uint16 feeBps;
        uint8 status;
    }

    /// @notice What governs a lease from its opening to its end.
    struct Terms {
        uint16 feeBps;
        uint64 serviceFeeDelay;
        uint64 challengeWindow;
    }

    /// A lease as it is stored, in five slots; a voucher reads three of them and writes one. The status follows from
    /// the times, so that the two can never disagree.
    struct Stored {
        address consumer;
        uint40 openedAt;
        uint32 maxSeconds;
        // slot
        address payee;
        uint96 ratePerSecond;
        // slot
        address sessionKey;
        uint16 termsId;
        uint40 closingAt;
        uint40 closedAt;
        // slot
        uint128 deposit;
        uint128 redeemed;
        // slot
        bytes32 container;
    }

    /// One entry of a packed batch.
    struct Voucher {
        bytes32 lease;
        uint128 amount;
        uint64 asOf;
        bytes32 r;
        bytes32 vs;
    }

    /// @notice The token of deposits and fees.
    IERC20 public immutable token;
    /// @notice Where Containers are registered.
    IContainerRegistry public immutable registry;

    /// @notice Who gets the network's fees.
    address public feeRecipient;
    /// @notice The terms of leases opened from now on.
    uint16 public termsId;
    /// @notice The network's fees that were not claimed yet.
    uint128 public networkFees;
    /// @notice Terms by their number; what is written once never changes.
    mapping(uint16 termsId => Terms) public terms;
    /// @notice Whether an operator may close leases in a payee's name. It can move no money elsewhere.
    mapping(address payee => mapping(address operator => bool)) public isOperator;
    /// @notice Refunds that the token refused to deliver.
    mapping(address consumer => uint256) public refundsOwed;

    mapping(bytes32 lease => Stored) internal _leases;
    mapping(address payee => ServiceFees.Queue) private _serviceFees;

    /// @param token_ the token of deposits and fees
    /// @param registry_ where Containers are registered
    /// @param admin gets the admin and the governor role
    /// @param feeRecipient_ who gets the network's fees
    /// @param feeBps_ the network's part of each redemption, in basis points
    /// @param serviceFeeDelay_ seconds until a payee can claim what was redeemed
    /// @param challengeWindow_ seconds in which vouchers still count after the consumer closed or the term ended
    constructor(
        address token_,
        address registry_,
        address admin,
        address feeRecipient_,
        uint16 feeBps_,
        uint64 serviceFeeDelay_,
        uint64 challengeWindow_
    ) EIP712("Muster LeaseEscrow", "1") {
        if (token_ == address(0) || registry_ == address(0) || admin == address(0)) revert BadAddress();
        token = IERC20(token_);
        registry = IContainerRegistry(registry_);
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(GOVERNOR_ROLE, admin);
        _setFeeRecipient(feeRecipient_);
        _setTerms(0, feeBps_, serviceFeeDelay_, challengeWindow_);
    }

    // ---- opening -------------------------------------------------------------------------------------------------

    /// @notice Opens a lease and takes its deposit. The caller is the consumer.
    function open(OpenParams calldata p) external whenNotPaused nonReentrant returns (bytes32 id) {
        id = _open(p);
        token.pull(msg.sender, p.deposit);
    }

    /// @notice {open} with an ERC-2612 approval of `value` in the same transaction.
    function openWithPermit(OpenParams calldata p, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        whenNotPaused
        nonReentrant
        returns (bytes32 id)
    {
        token.tryPermit(value, deadline, v, r, s);
        id = _open(p);
        token.pull(msg.sender, p.deposit);
    }

    /// @notice Opens many leases, or none; the deposits are taken at once.
    function openBatch(OpenParams[] calldata batch) external whenNotPaused nonReentrant returns (bytes32[] memory ids) {
        ids = new bytes32[](batch.length);
        uint256 total = 0;
        for (uint256 i = 0; i < batch.length; ++i) {
            ids[i] = _open(batch[i]);
            total += batch[i].deposit;
        }
        token.pull(msg.sender, total);
    }

    /// @notice Adds to an open lease's deposit; anybody may. What is left goes to the consumer in the end.
    function topUp(bytes32 id, uint128 amount) external whenNotPaused nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Stored storage s = _leases[id];
        uint8 status = _status(s);
        if (status == STATUS_NONE) revert UnknownLease(id);
        if (status != STATUS_OPEN) revert NotOpen(id);
        uint128 deposit = s.deposit + amount;
        s.deposit = deposit;
        emit LeaseToppedUp(id, msg.sender, amount, deposit);
        token.pull(msg.sender, amount);
    }

    // ---- vouchers ------------------------------------------------------------------------------------------------

    /// @notice Pays what a voucher adds to what was redeemed before; anybody may bring it.
    /// @param amount cumulative over the lease
    /// @param asOf the time the voucher speaks of; signed, and not judged here
    /// @param r EIP-2098 compact signature of the session key
    /// @param vs its second half
    function redeem(bytes32 id, uint128 amount, uint64 asOf, bytes32 r, bytes32 vs) external nonReentrant {
        Stored storage s = _leases[id];
        Voucher memory voucher = Voucher(id, amount, asOf, r, vs);
        uint8 reason = _judge(s, voucher);
        if (reason == 0 && amount == s.redeemed) reason = REASON_BELOW_REDEEMED;
        if (reason != 0) _refuse(reason, s, voucher);
        networkFees += _pay(s, voucher);
    }

    /// @notice Redeems many vouchers; a bad one is skipped, with an event that says why.
    /// @param packed entries of {VOUCHER_BYTES} bytes, big-endian: lease, amount, asOf, r, vs
    function redeemBatch(bytes calldata packed) external nonReentrant {
        uint256 count = _count(packed);
        uint128 fees = 0;
        for (uint256 i = 0; i < count; ++i) {
            Voucher memory voucher = _unpack(packed, i);
            Stored storage s = _leases[voucher.lease];
            uint8 reason = _judge(s, voucher);
            if (reason == 0 && voucher.amount == s.redeemed) reason = REASON_BELOW_REDEEMED;
            if (reason == 0) fees += _pay(s, voucher);
            else emit VoucherSkipped(voucher.lease, reason);
        }
        networkFees += fees;
    }

    /// @notice Redeems the last voucher of many leases and closes them, in the name of their payee. An entry whose
    /// amount and signature are zero closes without a voucher; one whose voucher was redeemed already just closes. A
    /// bad entry is skipped, with an event that says why, and its lease stays as it is.
    /// @param packed entries as of {redeemBatch}
    function settleBatch(bytes calldata packed) external nonReentrant {
        uint256 count = _count(packed);
        uint128 fees = 0;
        // Refunds to one consumer in a row travel together.
        address consumer = address(0);
        uint256 refund = 0;
        for (uint256 i = 0; i < count; ++i) {
            Voucher memory voucher = _unpack(packed, i);
            Stored storage s = _leases[voucher.lease];
            uint8 reason = _judgeSettlement(s, voucher);
            if (reason != 0) {
                emit VoucherSkipped(voucher.lease, reason);
                continue;
            }
            if (voucher.amount > s.redeemed) fees += _pay(s, voucher);
            if (s.consumer != consumer) {
                _refund(consumer, refund);
                consumer = s.consumer;
                refund = 0;
            }
            refund += _close(voucher.lease, s);
        }
        networkFees += fees;
        _refund(consumer, refund);
    }

    // ---- closing -------------------------------------------------------------------------------------------------

    /// @notice The payee, or its operator, ends a lease at once; the rest goes back to the consumer.
    function closeByContainer(bytes32 id) external nonReentrant {
        Stored storage s = _live(id);
        if (!_actsFor(s.payee)) revert NotPayee(id, msg.sender);
        _refund(s.consumer, _close(id, s));
    }

    /// @notice The consumer, or its session key, ends a lease. Vouchers can be redeemed through the challenge window;
    /// then anybody can {finalize}.
    function closeByConsumer(bytes32 id) external {
        Stored storage s = _live(id);
        if (msg.sender != s.consumer && msg.sender != s.sessionKey) revert NotConsumer(id, msg.sender);
        if (s.closingAt != 0) revert NotOpen(id);
        s.closingAt = uint40(block.timestamp);
        emit LeaseClosing(id, msg.sender, _windowEnd(s));
    }

    /// @notice Ends a lease whose challenge window is over, or whose term and window are; anybody may.
    function finalize(bytes32 id) external nonReentrant {
        Stored storage s = _live(id);
        uint64 from = s.closingAt != 0 ? _windowEnd(s) : _expiry(s);
        if (block.timestamp < from) revert TooEarly(from);
        _refund(s.consumer, _close(id, s));
    }

    // ---- claiming ------------------------------------------------------------------------------------------------

    /// @notice Allows or forbids an operator to close leases, and settle them, in the caller's name.
    function setOperator(address operator, bool allowed) external {
        isOperator[msg.sender][operator] = allowed;
        emit OperatorSet(msg.sender, operator, allowed);
    }

    /// @notice Pays a payee what is claimable; anybody may call it.
    /// @param maxEntries how many entries of the queue to look at; 70 always suffice while the delay never changed
    function claimServiceFee(address payee, uint256 maxEntries) external nonReentrant returns (uint256 amount) {
        amount = _serviceFees[payee].take(maxEntries);
        if (amount == 0) revert NothingToClaim();
        emit ServiceFeeClaimed(payee, amount);
        token.safeTransfer(payee, amount);
    }

    /// @notice Pays the network's fees to their recipient; anybody may call it.
    function claimNetworkFee() external nonReentrant returns (uint256 amount) {
        amount = networkFees;
        if (amount == 0) revert NothingToClaim();
        networkFees = 0;
        emit NetworkFeeClaimed(feeRecipient, amount);
        token.safeTransfer(feeRecipient, amount);
    }

    /// @notice Tries again to deliver refunds that the token refused; anybody may call it.
    function claimRefund(address consumer) external nonReentrant returns (uint256 amount) {
        amount = refundsOwed[consumer];
        if (amount == 0) revert NothingToClaim();
        refundsOwed[consumer] = 0;
        emit RefundClaimed(consumer, amount);
        token.safeTransfer(consumer, amount);
    }

    // ---- the governor --------------------------------------------------------------------------------------------

    /// @notice Sets the terms of leases opened from now on.
    function setTerms(uint16 feeBps_, uint64 serviceFeeDelay_, uint64 challengeWindow_)
        external
        onlyRole(GOVERNOR_ROLE)
    {
        _setTerms(termsId + 1, feeBps_, serviceFeeDelay_, challengeWindow_);
    }

    /// @notice Sets who gets the network's fees, those not claimed yet included.
    function setFeeRecipient(address recipient) external onlyRole(GOVERNOR_ROLE) {
        _setFeeRecipient(recipient);
    }

    /// @notice Stops opening and topping up.
    function pause() external onlyRole(GOVERNOR_ROLE) {
        _pause();
    }

    /// @notice Ends a pause.
    function unpause() external onlyRole(GOVERNOR_ROLE) {
        _unpause();
    }

    // ---- views ---------------------------------------------------------------------------------------------------

    /// @notice A lease; all zero if there is none.
    function lease(bytes32 id) external view returns (Lease memory) {
        Stored storage s = _leases[id];
        uint8 status = _status(s);
        return Lease({
            consumer: s.consumer,
            payee: s.payee,
            sessionKey: s.sessionKey,
            container: s.container,
            deposit: s.deposit,
            redeemed: s.redeemed,
            ratePerSecond: s.ratePerSecond,
            openedAt: s.openedAt,
            maxSeconds: s.maxSeconds,
            closingAt: s.closingAt,
            closedAt: s.closedAt,
            feeBps: status == STATUS_NONE ? 0 : terms[s.termsId].feeBps,
            status: status
        });
    }

    /// @notice The terms that were frozen when a lease opened.
    function termsOf(bytes32 id) external view returns (Terms memory) {
        Stored storage s = _leases[id];
        if (_status(s) == STATUS_NONE) revert UnknownLease(id);
        return terms[s.termsId];
    }

    /// @notice The id of the lease that `consumer` opens, or opened, with `salt`.
    function leaseIdOf(address consumer, bytes32 salt) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), consumer, salt));
    }

    /// @notice What a session key signs: the EIP-712 digest of a voucher.
    function voucherDigest(bytes32 id, uint128 amount, uint64 asOf) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, id, amount, asOf)));
    }

    /// @notice What a payee can claim now, and what still waits for its delay.
    function claimable(address payee) external view returns (uint256 now_, uint256 pending) {
        return _serviceFees[payee].sums();
    }

    /// @notice The network's fee on leases opened from now on, in basis points.
    function feeBps() external view returns (uint16) {
        return terms[termsId].feeBps;
    }

    /// @notice The delay of service fees of leases opened from now on, in seconds.
    function serviceFeeDelay() external view returns (uint64) {
        return terms[termsId].serviceFeeDelay;
    }

    /// @notice The challenge window of leases opened from now on, in seconds.
    function challengeWindow() external view returns (uint64) {
        return terms[termsId].challengeWindow;
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    /// Records a lease; the caller pulls the deposit.
    function _open(OpenParams calldata p) private returns (bytes32 id) {
        if (p.deposit == 0) revert ZeroAmount();
        if (p.sessionKey == address(0)) revert BadAddress();
        if (p.maxSeconds == 0 || p.maxSeconds > MAX_LEASE_SECONDS) revert OutOfBounds();
        if (p.ratePerSecond > type(uint96).max) revert OutOfBounds();
        id = leaseIdOf(msg.sender, p.salt);
        if (_leases[id].sessionKey != address(0)) revert LeaseExists(id);
        address payee = registry.activeContainerOwner(p.container);
        if (payee == address(0)) revert ContainerNotActive(p.container);

        _leases[id] = Stored({
            consumer: msg.sender,
            openedAt: uint40(block.timestamp),
            maxSeconds: uint32(p.maxSeconds),
            payee: payee,
            ratePerSecond: uint96(p.ratePerSecond),
            sessionKey: p.sessionKey,
            termsId: termsId,
            closingAt: 0,
            closedAt: 0,
            deposit: p.deposit,
            redeemed: 0,
            container: p.container
        });
        emit LeaseOpened(id, msg.sender, p.container, p.indexer, p.sessionKey, p.deposit, p.ratePerSecond, p.maxSeconds);
    }

    /// Whether a voucher can be redeemed: zero, or the reason why not. One that promises exactly what was redeemed
    /// passes here; callers decide about it.
    function _judge(Stored storage s, Voucher memory voucher) private view returns (uint8) {
        uint8 reason = _judgeLease(s);
        if (reason != 0) return reason;
        if (voucher.amount < s.redeemed) return REASON_BELOW_REDEEMED;
        if (voucher.amount > s.deposit) return REASON_ABOVE_DEPOSIT;
        bytes32 digest = voucherDigest(voucher.lease, voucher.amount, voucher.asOf);
        // slither-disable-next-line unused-return -- the third value only describes the error
        (address signer, ECDSA.RecoverError err,) = ECDSA.tryRecover(digest, voucher.r, voucher.vs);
        if (err != ECDSA.RecoverError.NoError || signer != s.sessionKey) return REASON_BAD_SIGNATURE;
        return 0;
    }

    /// Whether a lease takes vouchers at all.
    function _judgeLease(Stored storage s) private view returns (uint8) {
        uint8 status = _status(s);
        if (status == STATUS_NONE) return REASON_UNKNOWN_LEASE;
        if (status == STATUS_CLOSED) return REASON_NOT_OPEN;
        if (status == STATUS_CLOSING && block.timestamp >= _windowEnd(s)) return REASON_WINDOW_OVER;
        return 0;
    }

    /// Whether an entry of {settleBatch} can be carried out: zero, or the reason why not.
    function _judgeSettlement(Stored storage s, Voucher memory voucher) private view returns (uint8) {
        uint8 status = _status(s);
        if (status == STATUS_NONE) return REASON_UNKNOWN_LEASE;
        if (status == STATUS_CLOSED) return REASON_NOT_OPEN;
        if (!_actsFor(s.payee)) return REASON_NOT_PAYEE;
        if (voucher.amount == 0 && voucher.r == 0 && voucher.vs == 0) return 0;
        return _judge(s, voucher);
    }

    /// Books what a good voucher adds, and returns the network's fee, which the caller books.
    function _pay(Stored storage s, Voucher memory voucher) private returns (uint128 fee) {
        uint128 redeemed = s.redeemed;
        uint128 delta = voucher.amount - redeemed;
        Terms memory t = terms[s.termsId];
        // The difference of cumulative fees: their sum over a lease does not depend on how often it was redeemed.
        fee = _feeOn(voucher.amount, t.feeBps) - _feeOn(redeemed, t.feeBps);
        s.redeemed = voucher.amount;
        _serviceFees[s.payee].credit(delta - fee, t.serviceFeeDelay);
        emit VoucherRedeemed(voucher.lease, voucher.amount, delta, fee);
    }

    /// Ends a lease and returns what the consumer gets back, which the caller sends.
    function _close(bytes32 id, Stored storage s) private returns (uint128 rest) {
        uint128 redeemed = s.redeemed;
        rest = s.deposit - redeemed;
        s.closedAt = uint40(block.timestamp);
        emit LeaseClosed(id, redeemed, rest);
    }

    /// Sends a refund. If the token refuses the consumer, the refund waits, and hinders nobody else's.
    function _refund(address consumer, uint256 amount) private {
        if (amount == 0) return;
        if (!token.trySafeTransfer(consumer, amount)) {
            refundsOwed[consumer] += amount;
            emit RefundDeferred(consumer, amount);
        }
    }

    /// Turns a reason into its error.
    function _refuse(uint8 reason, Stored storage s, Voucher memory voucher) private view {
        if (reason == REASON_UNKNOWN_LEASE) revert UnknownLease(voucher.lease);
        if (reason == REASON_NOT_OPEN) revert NotOpen(voucher.lease);
        if (reason == REASON_WINDOW_OVER) revert WindowOver(voucher.lease);
        if (reason == REASON_BELOW_REDEEMED) revert BelowRedeemed(voucher.amount, s.redeemed);
        if (reason == REASON_ABOVE_DEPOSIT) revert AboveDeposit(voucher.amount, s.deposit);
        revert BadSignature();
    }

    function _setTerms(uint16 id, uint16 feeBps_, uint64 serviceFeeDelay_, uint64 challengeWindow_) private {
        if (
            feeBps_ > MAX_FEE_BPS || serviceFeeDelay_ > MAX_SERVICE_FEE_DELAY || challengeWindow_ == 0
                || challengeWindow_ > MAX_CHALLENGE_WINDOW
        ) revert OutOfBounds();
        termsId = id;
        terms[id] = Terms(feeBps_, serviceFeeDelay_, challengeWindow_);
        emit TermsSet(id, feeBps_, serviceFeeDelay_, challengeWindow_);
    }

    function _setFeeRecipient(address recipient) private {
        if (recipient == address(0) || recipient == address(this)) revert BadAddress();
        feeRecipient = recipient;
        emit FeeRecipientSet(recipient);
    }

    /// A lease that is open or closing.
    function _live(bytes32 id) private view returns (Stored storage s) {
        s = _leases[id];
        uint8 status = _status(s);
        if (status == STATUS_NONE) revert UnknownLease(id);
        if (status == STATUS_CLOSED) revert NotOpen(id);
    }

    function _status(Stored storage s) private view returns (uint8) {
        if (s.sessionKey == address(0)) return STATUS_NONE;
        if (s.closedAt != 0) return STATUS_CLOSED;
        return s.closingAt != 0 ? STATUS_CLOSING : STATUS_OPEN;
    }

    function _actsFor(address payee) private view returns (bool) {
        return msg.sender == payee || isOperator[payee][msg.sender];
    }

    /// From when on a closing lease can be finalized, and takes no more vouchers.
    function _windowEnd(Stored storage s) private view returns (uint64) {
        return s.closingAt + terms[s.termsId].challengeWindow;
    }

    /// From when on a lease that nobody closed can be finalized.
    function _expiry(Stored storage s) private view returns (uint64) {
        return uint64(s.openedAt) + s.maxSeconds + terms[s.termsId].challengeWindow;
    }

    function _feeOn(uint128 amount, uint16 bps) private pure returns (uint128) {
        return uint128(uint256(amount) * bps / 10_000);
    }

    function _count(bytes calldata packed) private pure returns (uint256) {
        if (packed.length == 0 || packed.length % VOUCHER_BYTES != 0) revert BadBatch(packed.length);
        return packed.length / VOUCHER_BYTES;
    }

    /// The entry at `index`, which {_count} has found to be there.
    function _unpack(bytes calldata packed, uint256 index) private pure returns (Voucher memory voucher) {
        // Five reads at fixed places: slices would check the bounds of each, again, for a tenth of a batch's gas.
        assembly ("memory-safe") {
            let e := add(packed.offset, mul(index, 120))
            let both := calldataload(add(e, 32))
            mstore(voucher, calldataload(e))
            mstore(add(voucher, 32), shr(128, both))
            mstore(add(voucher, 64), and(shr(64, both), 0xffffffffffffffff))
            mstore(add(voucher, 96), calldataload(add(e, 56)))
            mstore(add(voucher, 128), calldataload(add(e, 88)))
        }
    }
}
