// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {INodeRegistry} from "./INodeRegistry.sol";
import {TokenPull} from "./TokenPull.sol";

/// @title The right to have Containers checked in one's name
/// @notice A licence is an ERC-721 token, numbered from 1 on, never more than the cap. Its owner delegates it to a
/// registered Checker's node key; a Checker serves any number of licences, and rewards belong to the owners. A
/// delegation ends with a transfer.
///
/// Who owned what, and delegated it where, at any block follows from the events alone: `Transfer`, {LicenceDelegated},
/// {LicenceUndelegated}. A Checker that is jailed or leaves keeps its delegations, and serves none of them until it is
/// back: readers look at the registry for that. Pausing stops buying, nothing else.
contract CheckerLicence is ERC721, AccessControl, Pausable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using TokenPull for IERC20;

    /// @notice Sets price and recipient, and pauses.
    bytes32 public constant GOVERNOR_ROLE = keccak256("GOVERNOR_ROLE");
    /// @notice No network has more licences than that.
    uint256 public constant MAX_CAP = 100_000;
    /// @notice Most licences in one call.
    uint256 public constant MAX_BATCH = 200;
    /// @notice Largest page of {page}.
    uint256 public constant MAX_PAGE = 1000;

    uint8 private constant KIND_CHECKER = 3;
    uint8 private constant STATUS_ACTIVE = 1;

    /// @notice The token that licences are paid with.
    IERC20 public immutable token;
    /// @notice Where Checkers are registered.
    INodeRegistry public immutable registry;
    /// @notice How many licences there can ever be.
    uint256 public immutable cap;

    /// @notice How many licences were sold; the last one's number.
    uint256 public totalSupply;
    /// @notice Price of one licence, in the token's smallest unit.
    uint128 public price;
    /// @notice Who gets what licences are paid with.
    address public recipient;

    /// @notice The Checker that a licence is delegated to; zero where it is to none.
    mapping(uint256 id => bytes32 nodeKey) public delegateOf;
    /// @notice How many licences are delegated to a Checker.
    mapping(bytes32 nodeKey => uint256) public delegatedCount;

    event LicencesBought(address indexed buyer, uint256 firstId, uint256 count, uint256 paid);
    event LicenceDelegated(uint256 indexed id, bytes32 indexed nodeKey, address indexed owner);
    event LicenceUndelegated(uint256 indexed id, bytes32 indexed nodeKey, address indexed owner);
    event PriceSet(uint128 price);
    event RecipientSet(address recipient);

    /// @notice Fewer licences are left than were asked for.
    error CapReached(uint256 left, uint256 count);
    /// @notice The price rose above what the buyer would pay.
    error PriceAbove(uint128 price, uint128 most);
    /// @notice Only the licence's owner may do this.
    error NotOwner(uint256 id, address caller);
    /// @notice No active Checker is registered under this key.
    error CheckerNotActive(bytes32 nodeKey);
    /// @notice The licence is delegated to none.
    error NotDelegated(uint256 id);
    /// @notice None, or more than {MAX_BATCH}.
    error BadCount(uint256 count);
    /// @notice An address of zero, or of this contract, where tokens would be lost.
    error BadAddress();
    /// @notice A parameter outside its bounds.
    error OutOfBounds();

    /// @param token_ the token that licences are paid with
    /// @param registry_ where Checkers are registered
    /// @param admin gets the admin and the governor role
    /// @param recipient_ who gets what licences are paid with
    /// @param cap_ how many licences there can ever be, at most {MAX_CAP}
    /// @param price_ price of one licence
    constructor(address token_, address registry_, address admin, address recipient_, uint256 cap_, uint128 price_)
        ERC721("Muster Checker Licence", "MUSTL")
    {
        if (token_ == address(0) || registry_ == address(0) || admin == address(0)) revert BadAddress();
        if (cap_ == 0 || cap_ > MAX_CAP) revert OutOfBounds();
        token = IERC20(token_);
        registry = INodeRegistry(registry_);
        cap = cap_;
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(GOVERNOR_ROLE, admin);
        _setRecipient(recipient_);
        _setPrice(price_);
    }

    // ---- buying --------------------------------------------------------------------------------------------------

    /// @notice Buys licences for the caller, at a price of at most `priceMost` each.
    /// @return firstId the first one's number; the others follow it
    function buy(uint256 count, uint128 priceMost) external whenNotPaused nonReentrant returns (uint256 firstId) {
        return _buy(count, priceMost);
    }

    /// @notice {buy} with an ERC-2612 approval of `value` in the same transaction.
    function buyWithPermit(
        uint256 count,
        uint128 priceMost,
        uint256 value,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external whenNotPaused nonReentrant returns (uint256 firstId) {
        token.tryPermit(value, deadline, v, r, s);
        return _buy(count, priceMost);
    }

    // ---- delegating ----------------------------------------------------------------------------------------------

    /// @notice Delegates licences to a Checker; one that was delegated elsewhere changes over.
    function delegate(uint256[] calldata ids, bytes32 nodeKey) external {
        _checkBatch(ids.length);
        _checkActive(nodeKey);
        for (uint256 i = 0; i < ids.length; ++i) {
            _delegate(ids[i], nodeKey);
        }
    }

    /// @notice {delegate} for one licence.
    function delegateOne(uint256 id, bytes32 nodeKey) external {
        _checkActive(nodeKey);
        _delegate(id, nodeKey);
    }

    /// @notice Takes licences back from their Checkers.
    function undelegate(uint256[] calldata ids) external {
        _checkBatch(ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            _undelegate(ids[i]);
        }
    }

    /// @notice {undelegate} for one licence.
    function undelegateOne(uint256 id) external {
        _undelegate(id);
    }

    // ---- the governor --------------------------------------------------------------------------------------------

    /// @notice Sets the price of licences sold from now on.
    function setPrice(uint128 price_) external onlyRole(GOVERNOR_ROLE) {
        _setPrice(price_);
    }

    /// @notice Sets who gets what licences are paid with from now on.
    function setRecipient(address recipient_) external onlyRole(GOVERNOR_ROLE) {
        _setRecipient(recipient_);
    }

    /// @notice Stops buying.
    function pause() external onlyRole(GOVERNOR_ROLE) {
        _pause();
    }

    /// @notice Ends a pause.
    function unpause() external onlyRole(GOVERNOR_ROLE) {
        _unpause();
    }

    // ---- views ---------------------------------------------------------------------------------------------------

    /// @notice Owners and delegates of the licences from number `from` on, at most {MAX_PAGE}, fewer at the end.
    function page(uint256 from, uint256 count)
        external
        view
        returns (address[] memory owners, bytes32[] memory delegates)
    {
        if (from == 0) from = 1;
        uint256 size = from <= totalSupply ? totalSupply - from + 1 : 0;
        if (size > count) size = count;
        if (size > MAX_PAGE) size = MAX_PAGE;
        owners = new address[](size);
        delegates = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            owners[i] = _ownerOf(from + i);
            delegates[i] = delegateOf[from + i];
        }
    }

    /// @notice ERC-165.
    function supportsInterface(bytes4 interfaceId) public view override(ERC721, AccessControl) returns (bool) {
        return super.supportsInterface(interfaceId);
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    function _buy(uint256 count, uint128 priceMost) private returns (uint256 firstId) {
        _checkBatch(count);
        uint256 sold = totalSupply;
        if (count > cap - sold) revert CapReached(cap - sold, count);
        uint128 each = price;
        if (each > priceMost) revert PriceAbove(each, priceMost);
        firstId = sold + 1;
        totalSupply = sold + count;
        uint256 paid = count * each;
        emit LicencesBought(msg.sender, firstId, count, paid);
        // Not _safeMint: a buyer calls for itself, and a callback in the middle of a batch serves nobody.
        for (uint256 i = 0; i < count; ++i) {
            _mint(msg.sender, firstId + i);
        }
        if (paid != 0) {
            token.pull(msg.sender, paid);
            token.safeTransfer(recipient, paid);
        }
    }

    function _delegate(uint256 id, bytes32 nodeKey) private {
        bytes32 before = delegateOf[id];
        address owner = _checkOwner(id);
        if (before == nodeKey) return;
        if (before != 0) _clear(id, before, owner);
        delegateOf[id] = nodeKey;
        ++delegatedCount[nodeKey];
        emit LicenceDelegated(id, nodeKey, owner);
    }

    function _undelegate(uint256 id) private {
        bytes32 before = delegateOf[id];
        address owner = _checkOwner(id);
        if (before == 0) revert NotDelegated(id);
        _clear(id, before, owner);
    }

    function _clear(uint256 id, bytes32 nodeKey, address owner) private {
        delete delegateOf[id];
        --delegatedCount[nodeKey];
        emit LicenceUndelegated(id, nodeKey, owner);
    }

    /// A delegation was the old owner's: it ends when the licence changes hands.
    function _update(address to, uint256 id, address auth) internal override returns (address from) {
        from = super._update(to, id, auth);
        bytes32 nodeKey = delegateOf[id];
        if (nodeKey != 0) _clear(id, nodeKey, from);
    }

    function _setPrice(uint128 price_) private {
        price = price_;
        emit PriceSet(price_);
    }

    function _setRecipient(address recipient_) private {
        if (recipient_ == address(0) || recipient_ == address(this)) revert BadAddress();
        recipient = recipient_;
        emit RecipientSet(recipient_);
    }

    function _checkOwner(uint256 id) private view returns (address owner) {
        owner = _ownerOf(id);
        if (owner != msg.sender) revert NotOwner(id, msg.sender);
    }

    function _checkActive(bytes32 nodeKey) private view {
        (, uint8 kind, uint8 status) = registry.identity(nodeKey);
        if (kind != KIND_CHECKER || status != STATUS_ACTIVE) revert CheckerNotActive(nodeKey);
    }

    function _checkBatch(uint256 count) private pure {
        if (count == 0 || count > MAX_BATCH) revert BadCount(count);
    }
}
