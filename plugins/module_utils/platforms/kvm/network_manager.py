from .network_renderer import NetworkRenderer


class NetworkManagerRenderer(NetworkRenderer):
    UNIT = "NetworkManager.service"
