// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What the escrow says: its constants, events and errors
abstract contract LeaseEscrowBase {
    /// @notice Sets terms and the recipient of fees, and pauses.
    bytes32 public constant GOVERNOR_ROLE = keccak256("GOVERNOR_ROLE");
    /// @notice EIP-712 type of a voucher. `amount` is cumulative over the lease.
    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 lease,uint128 amount,uint64 asOf)");

    uint8 public constant STATUS_NONE = 0;
    uint8 public constant STATUS_OPEN = 1;
    uint8 public constant STATUS_CLOSING = 2;
    uint8 public constant STATUS_CLOSED = 3;

    /// @notice Highest network fee, in basis points.
    uint16 public constant MAX_FEE_BPS = 3000;
    /// @notice Longest delay of a service fee, in seconds.
    uint64 public constant MAX_SERVICE_FEE_DELAY = 90 days;
    /// @notice Longest challenge window, in seconds.
    uint64 public constant MAX_CHALLENGE_WINDOW = 30 days;
    /// @notice Longest term of a lease, in seconds.
    uint64 public constant MAX_LEASE_SECONDS = 5 * 365 days;
    /// @notice Bytes of one entry of a packed batch: lease (32), amount (16), asOf (8), r (32), vs (32).
    uint256 public constant VOUCHER_BYTES = 120;

    // Why an entry of a batch was skipped; each stands for the error of the same name.
    uint8 public constant REASON_UNKNOWN_LEASE = 1;
    uint8 public constant REASON_NOT_OPEN = 2;
    uint8 public constant REASON_WINDOW_OVER = 3;
    uint8 public constant REASON_BELOW_REDEEMED = 4;
    uint8 public constant REASON_ABOVE_DEPOSIT = 5;
    uint8 public constant REASON_BAD_SIGNATURE = 6;
    uint8 public constant REASON_NOT_PAYEE = 7;

    event LeaseOpened(
        bytes32 indexed lease,
        address indexed consumer,
        bytes32 indexed container,
        bytes32 indexer,
        address sessionKey,
        uint128 deposit,
        uint128 ratePerSecond,
        uint64 maxSeconds
    );
    event LeaseToppedUp(bytes32 indexed lease, address indexed from, uint128 amount, uint128 deposit);
    /// @notice `amount` is the new cumulative one, `delta` what it adds, `fee` the network's part of `delta`.
    event VoucherRedeemed(bytes32 indexed lease, uint128 amount, uint128 delta, uint128 fee);
    event VoucherSkipped(bytes32 indexed lease, uint8 reason);
    event LeaseClosing(bytes32 indexed lease, address indexed by, uint64 redeemableUntil);
    event LeaseClosed(bytes32 indexed lease, uint128 redeemed, uint128 refunded);
    /// @notice The token refused a refund; it waits for {LeaseEscrow-claimRefund}.
    event RefundDeferred(address indexed consumer, uint256 amount);
    event RefundClaimed(address indexed consumer, uint256 amount);
    event ServiceFeeClaimed(address indexed payee, uint256 amount);
    event NetworkFeeClaimed(address indexed recipient, uint256 amount);
    event OperatorSet(address indexed payee, address indexed operator, bool allowed);
    event TermsSet(uint16 indexed termsId, uint16 feeBps, uint64 serviceFeeDelay, uint64 challengeWindow);
    event FeeRecipientSet(address recipient);

    /// @notice No such lease.
    error UnknownLease(bytes32 lease);
    /// @notice The consumer used this salt before.
    error LeaseExists(bytes32 lease);
    /// @notice No active Container is registered under this key.
    error ContainerNotActive(bytes32 container);
    /// @notice The lease is closed; or it is closing, and this needs an open one.
    error NotOpen(bytes32 lease);
    /// @notice The challenge window of a closing lease has passed.
    error WindowOver(bytes32 lease);
    /// @notice The voucher promises nothing above what is redeemed.
    error BelowRedeemed(uint128 amount, uint128 redeemed);
    /// @notice The voucher promises more than the deposit.
    error AboveDeposit(uint128 amount, uint128 deposit);
    /// @notice The voucher is not signed by the lease's session key, over this chain and this contract.
    error BadSignature();
    /// @notice Only the lease's payee or its operator may do this.
    error NotPayee(bytes32 lease, address caller);
    /// @notice Only the lease's consumer or its session key may do this.
    error NotConsumer(bytes32 lease, address caller);
    /// @notice Only from the time `from` on.
    error TooEarly(uint64 from);
    /// @notice A packed batch must hold one or more entries of {VOUCHER_BYTES} bytes.
    error BadBatch(uint256 length);
    /// @notice An amount of zero where there must be one.
    error ZeroAmount();
    /// @notice An address of zero, or of this contract, where tokens would be lost.
    error BadAddress();
    /// @notice A parameter outside its bounds.
    error OutOfBounds();
    /// @notice Nothing to claim.
    error NothingToClaim();
}
