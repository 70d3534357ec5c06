"""The judges of pictures of the drawn world. They saw drawings alone, and none of the networks that they judge."""
