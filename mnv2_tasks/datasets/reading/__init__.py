"""What formats share: splits, images, boxes, masks, classes, and what is left out."""
