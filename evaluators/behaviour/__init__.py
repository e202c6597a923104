"""What a model does when it writes by itself, which likelihoods of given answers do not see."""
