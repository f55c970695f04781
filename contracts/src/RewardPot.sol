// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title What no final outcome grants yet
/// @notice Holds what was paid in for rewards and bounties, and the bonds of disputes, apart from what final outcomes
/// grant: that alone lies in {EpochRewards}, so that claims together can never take more, whatever a root says.
contract RewardPot {
    using SafeERC20 for IERC20;

    IERC20 public immutable token;
    address public immutable owner;

    /// @notice Only {EpochRewards} may do this.
    error NotOwner(address caller);

    /// @param token_ the token that is held
    constructor(IERC20 token_) {
        token = token_;
        owner = msg.sender;
    }

    /// @notice Pays out, at its owner's word.
    function pay(address to, uint256 amount) external {
        if (msg.sender != owner) revert NotOwner(msg.sender);
        token.safeTransfer(to, amount);
    }
}
